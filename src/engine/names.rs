//! Ids and names.

use std::fmt::Write as _;

use super::EngineError;

/// The longest name: what a host name may have, since systemd's machined and D-Bus want one.
const NAME_MAX_BYTES: usize = 64;

/// Checks a name of a container: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 64 characters.
///
/// # Errors
/// [`EngineError::InvalidSpec`] for `field`.
pub fn check(field: &str, name: &str) -> Result<(), EngineError> {
    let invalid = |reason: &str| {
        Err(EngineError::InvalidSpec {
            field: field.to_owned(),
            reason: format!("{name:?} is no container name: {reason}"),
        })
    };
    if name.len() > NAME_MAX_BYTES {
        return invalid("it is longer than 64 characters");
    }
    if !name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) {
        return invalid("it must begin with a letter or a digit");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
        return invalid("only letters, digits, '_', '.' and '-' are allowed");
    }
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return invalid("it looks like an id");
    }
    Ok(())
}

/// A new id: 64 random hexadecimal digits.
///
/// # Errors
/// [`EngineError::Failed`] where the kernel gives no random bytes.
pub fn new_id() -> Result<String, EngineError> {
    let mut id = String::with_capacity(64);
    for byte in random_bytes()? {
        // Writing to a String can't fail.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

/// A name for a container that was given none, such as `sleepy_hazel`.
pub fn invent(id: &str) -> String {
    let number = |range: std::ops::Range<usize>| usize::from_str_radix(&id[range], 16).unwrap_or(0);
    let manner = MANNERS[number(0..6) % MANNERS.len()];
    let plant = PLANTS[number(6..12) % PLANTS.len()];
    // Two words alone would meet soon where there are many containers.
    format!("{manner}_{plant}_{}", &id[12..16])
}

fn random_bytes() -> Result<[u8; 32], EngineError> {
    let mut bytes = [0; 32];
    // Up to 256 bytes come at once, getrandom(2).
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(32) => Ok(bytes),
        Ok(_) => {
            Err(EngineError::Failed { attempted: "make an id".into(), reason: "too few random bytes".into() })
        }
        Err(errno) => Err(EngineError::Failed { attempted: "make an id".into(), reason: errno.to_string() }),
    }
}

const MANNERS: &[&str] = &[
    "calm",
    "cosy",
    "curled",
    "deep",
    "drowsy",
    "dreamy",
    "furry",
    "gentle",
    "golden",
    "lazy",
    "light",
    "mellow",
    "mild",
    "nocturnal",
    "peaceful",
    "quiet",
    "resting",
    "round",
    "shy",
    "silent",
    "sleepy",
    "slow",
    "small",
    "snug",
    "soft",
    "sound",
    "still",
    "tiny",
    "tranquil",
    "warm",
    "woolly",
    "yawning",
];

const PLANTS: &[&str] = &[
    "acorn", "alder", "ash", "aspen", "beech", "birch", "bramble", "bracken", "briar", "chestnut", "clover",
    "cherry", "elder", "elm", "fern", "hawthorn", "hazel", "heather", "holly", "hornbeam", "ivy", "juniper",
    "larch", "linden", "maple", "moss", "oak", "pine", "rowan", "sorrel", "thistle", "willow",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(name: &str, good: bool) {
        assert_eq!(check("spec.name", name).is_ok(), good, "{name:?}");
    }

    #[test]
    fn names_stay_within_what_paths_and_host_names_bear() {
        check_name("web", true);
        check_name("Web-1.2_x", true);
        check_name(&"a".repeat(63), true);
        check_name(&"g".repeat(64), true);
        check_name(&"a".repeat(64), false);
        check_name(&"a".repeat(65), false);
        check_name("", false);
        check_name(".hidden", false);
        check_name("-rf", false);
        check_name("a/b", false);
        check_name("..", false);
        check_name("a b", false);
        check_name("ä", false);
        check_name("a\0", false);
    }

    #[test]
    fn invented_names_are_good_names() {
        for _ in 0..100 {
            let id = new_id().unwrap();
            assert_eq!(id.len(), 64);
            check("name", &invent(&id)).unwrap();
        }
    }
}
