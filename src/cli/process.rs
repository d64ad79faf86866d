//! What the process asks of the operating system at its start and its end.

use crate::dist::is_work_left_behind;
use std::io::Write;
use std::process::ExitCode;

/// Keeps freed tensors in the process instead of returning their pages at every step.
///
/// glibc serves large blocks by `mmap` and gives them back at once; every tensor then costs page faults. Measured on
/// plain training steps: 6.5 → 2.8 CPU seconds.
pub(super) fn tune_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(unsafe_code, reason = "mallopt is the only way to tell glibc")]
        // SAFETY: mallopt takes two integers and no pointers; no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, 256 << 20);
        }
    }
}

/// Keeps candle's elementwise operations on the thread that asks for them.
///
/// Its pool waits by spinning, which costs more than it brings when passes run side by side (27 % of a supervised
/// miniature step). `CANDLE_NUM_THREADS` overrules.
pub(super) fn tune_threads() {
    const NAME: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(NAME).is_none() {
        #[expect(unsafe_code, reason = "candle reads this from the environment only")]
        // SAFETY: no other thread runs yet.
        unsafe {
            std::env::set_var(NAME, "1");
        }
    }
}

/// Lets `videothinker … | head` end quietly. Not for training, where a closed pipe must not cost the run.
pub(super) fn end_quietly_on_closed_pipe() {
    #[cfg(unix)]
    {
        #[expect(
            unsafe_code,
            reason = "Rust ignores SIGPIPE; a filter wants the default"
        )]
        // SAFETY: SIG_DFL installs no handler, so nothing runs in signal context.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
    }
}

/// Ends the process with `code`: at once, without what libraries do at the end, where a thread is still inside one of them
/// (NCCL or the driver would crash beside it).
pub(super) fn end(code: u8) -> ExitCode {
    if is_work_left_behind() {
        // Results are written and flushed before; a closed stdout cannot be told anything.
        let _ = std::io::stdout().flush();
        #[expect(unsafe_code, reason = "the standard library always runs exit handlers")]
        // SAFETY: nothing runs after it; files are written and closed by now.
        unsafe {
            libc::_exit(i32::from(code));
        }
    }
    ExitCode::from(code)
}
