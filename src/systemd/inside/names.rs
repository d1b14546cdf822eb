//! Names of units.

use super::InsideError;

/// Types of units, as the suffix of their names. Source: systemd.unit(5).
const TYPES: [&str; 11] = [
    "service",
    "socket",
    "target",
    "device",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
    "slice",
    "scope",
];
const NAME_BYTES_MAX: usize = 255;

/// Returns the full name of a unit: `cron` is `cron.service`.
///
/// Paths (`/home`) are not turned into names of mounts, and patterns are no names.
/// Source: systemd.unit(5), "Description".
/// # Errors
/// [`InsideError::BadUnitName`].
pub fn normalise_unit_name(name: &str) -> Result<String, InsideError> {
    let bad = |reason| Err(InsideError::BadUnitName { name: name.chars().take(256).collect(), reason });
    if name.is_empty() {
        return bad("it is empty");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b)) {
        return bad("only letters, digits and : - _ . \\ @ are allowed");
    }
    let full = match name.rsplit_once('.') {
        Some((_, suffix)) if TYPES.contains(&suffix) => name.to_owned(),
        _ => format!("{name}.service"),
    };
    if full.len() > NAME_BYTES_MAX {
        return bad("it is longer than 255 bytes");
    }
    if full.starts_with(['.', '@']) {
        return bad("it begins with . or @");
    }
    Ok(full)
}

/// Returns the D-Bus interface that a unit of this (full) name has for its type.
pub(super) fn type_interface(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "service" => "org.freedesktop.systemd1.Service",
        "socket" => "org.freedesktop.systemd1.Socket",
        "mount" => "org.freedesktop.systemd1.Mount",
        "swap" => "org.freedesktop.systemd1.Swap",
        "slice" => "org.freedesktop.systemd1.Slice",
        "scope" => "org.freedesktop.systemd1.Scope",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_type_is_a_service() {
        for (given, full) in [
            ("cron", "cron.service"),
            ("cron.service", "cron.service"),
            ("multi-user.target", "multi-user.target"),
            ("getty@tty1", "getty@tty1.service"),
            ("dbus-org.freedesktop.login1", "dbus-org.freedesktop.login1.service"),
            ("dev-disk-by\\x2duuid.device", "dev-disk-by\\x2duuid.device"),
            ("-.mount", "-.mount"),
        ] {
            assert_eq!(normalise_unit_name(given).unwrap(), full);
        }
    }

    #[test]
    fn what_is_no_unit_name_is_refused() {
        let long = "a".repeat(250);
        for name in ["", "a b", "/home", "*", "../x", "@x.service", ".service", "a\0", "ä", &long] {
            assert!(matches!(normalise_unit_name(name), Err(InsideError::BadUnitName { .. })), "{name:?}");
        }
    }
}
