//! Picks the role that this process plays. A role pays for nothing that it does not use: the monitor's way leads past
//! the command line parser, the logger and the runtime of the service.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let arguments: Vec<std::ffi::OsString> = words.collect();
    if dormouse::oci::is_called_as_runtime(&program) {
        return dormouse::oci::main(arguments);
    }
    if dormouse::quadlet::is_called_as_generator(&program) {
        return dormouse::quadlet::main(&program, &arguments);
    }
    let role = arguments.first().and_then(|role| role.to_str());
    match role {
        Some("monitor") => dormouse::monitor::main(arguments.into_iter().skip(1)),
        Some("exec-session") => dormouse::monitor::exec_session::main(),
        Some("runtime") => dormouse::oci::main(arguments.into_iter().skip(1).collect()),
        Some("health-check") => dormouse::health_check::main(&arguments[1..]),
        Some("pod-holder") => dormouse::pod_holder::main(&arguments[1..]),
        Some("serve") => dormouse::serve::main(arguments),
        Some("bridge") => dormouse::bridge::main(&arguments[1..]),
        Some("boot") => dormouse::boot::main(&arguments[1..]),
        Some("machine") => dormouse::machine::main(&arguments[1..]),
        Some("generator") => dormouse::quadlet::main(&program, &arguments[1..]),
        Some("cleanup") => dormouse::cleanup::main(&arguments[1..]),
        Some("run" | "start") if dormouse::unit::is_main_process() => {
            match dormouse::cli::ForegroundRun::parse() {
                Some(run) => dormouse::unit::main(run),
                None => dormouse::cli::main(),
            }
        }
        _ => dormouse::cli::main(),
    }
}
