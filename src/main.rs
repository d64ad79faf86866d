//! Arguments → run → exit code; the only place that prints an error.

use std::process::ExitCode;
use videothinker::cli;

fn main() -> ExitCode {
    match cli::run() {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one place that prints an error")]
            {
                eprintln!("error: {}", cli::describe(&error));
            }
            cli::end_with(&error)
        }
    }
}
