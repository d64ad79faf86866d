//! Arguments → run → exit code; the only place that prints an error.

use std::process::ExitCode;
use videothinker::cli;

fn main() -> ExitCode {
    let ended = cli::run();
    if let Err(error) = &ended {
        #[expect(clippy::print_stderr, reason = "the one place that prints an error")]
        {
            eprintln!("error: {}", cli::describe(error));
        }
    }
    cli::end(&ended)
}
