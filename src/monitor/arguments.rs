//! The few arguments of the inner roles, without a parser for people's.

use std::ffi::{OsStr, OsString};

/// Takes `--name value` and `--name=value` apart and hands each to `take`, which answers `None` for what it does not know.
///
/// # Errors
/// The first argument that is not known or has no value.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    mut take: impl FnMut(&str, &OsStr) -> Option<()>,
) -> Result<(), OsString> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut args = args.into_iter();
    while let Some(argument) = args.next() {
        let bytes = argument.as_bytes();
        let (name, value) = match bytes.iter().position(|b| *b == b'=') {
            Some(at) => (&bytes[..at], OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
            None => match args.next() {
                Some(value) => (bytes, value),
                None => return Err(argument),
            },
        };
        let known = std::str::from_utf8(name).ok().and_then(|name| take(name, &value));
        if known.is_none() {
            return Err(argument);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_giving_a_value_are_taken_and_what_is_unknown_is_named() {
        let parse = |args: &[&str]| {
            let mut seen = Vec::new();
            let result = parse(args.iter().map(Into::into), |name, value| {
                (name != "--bad").then(|| seen.push(format!("{name}:{}", value.display())))
            });
            (seen.join(" "), result)
        };
        assert_eq!(parse(&["--a", "1", "--b=x=y"]), ("--a:1 --b:x=y".into(), Ok(())));
        assert_eq!(parse(&["--a", "1", "--bad", "2"]), ("--a:1".into(), Err("--bad".into())));
        assert_eq!(parse(&["--a"]), (String::new(), Err("--a".into())));
    }
}
