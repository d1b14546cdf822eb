//! Network devices of the host that become a container's (config-linux, "Network Devices"), by rtnetlink(7).

use std::collections::HashMap;

use oci_spec::runtime::LinuxNetDevice;

use super::RuntimeError;

/// Moves devices into the network namespace of a process.
pub(super) fn move_all(devices: &HashMap<String, LinuxNetDevice>, pid: i32) -> Result<(), RuntimeError> {
    let _ = (devices, pid);
    let field = "linux.netDevices";
    Err(super::SpecError::Unsupported { field }.into())
}
