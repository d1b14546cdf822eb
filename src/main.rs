//! Picks the role that this process plays.

use std::process::ExitCode;

fn main() -> ExitCode {
    dormouse::cli::main()
}
