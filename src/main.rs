//! Picks the role that this process plays.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("monitor") => dormouse::monitor::main(args),
        Some("exec-session") => dormouse::monitor::exec_session::main(args),
        _ => ExitCode::from(2),
    }
}
