//! Quantities, and variables in texts, as Kubernetes has them.

/// Names that suffixes of quantities have, and how many thousandths they stand for. Source: Kubernetes, resource.Quantity.
const SUFFIXES: &[(&str, u128)] = &[
    ("m", 1),
    ("", 1_000),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("Ki", 1_000 << 10),
    ("Mi", 1_000 << 20),
    ("Gi", 1_000 << 30),
    ("Ti", 1_000 << 40),
    ("Pi", 1_000 << 50),
];

/// A quantity in thousandths, rounded up; `None` for what is none.
pub(super) fn thousandths(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') || part.len() > 18 {
        return None;
    }
    let unit = match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) if !exponent.is_empty() => {
            1_000_u128.checked_mul(10_u128.checked_pow(exponent.trim_start_matches('+').parse().ok()?)?)?
        }
        _ => SUFFIXES.iter().find(|(known, _)| *known == suffix)?.1,
    };
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let divisor = 10_u128.pow(u32::try_from(part.len()).ok()?);
    u64::try_from(digits.checked_mul(unit)?.div_ceil(divisor)).ok()
}

/// A piece of a text with variables.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// `$(NAME)`
    Variable(&'a str),
    /// `$$`, which is a `$`.
    Escape,
}

/// Source: Kubernetes, third_party/forked/golang/expansion.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let behind = &rest[at + 1..];
        let variable = behind.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match (behind.starts_with('$'), variable) {
            (true, _) => {
                pieces.extend([Piece::Text(&rest[..at]), Piece::Escape]);
                rest = &behind[1..];
            }
            (false, Some((name, after))) => {
                pieces.extend([Piece::Text(&rest[..at]), Piece::Variable(name)]);
                rest = after;
            }
            (false, None) => {
                pieces.push(Piece::Text(&rest[..=at]));
                rest = behind;
            }
        }
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// The text with its variables replaced; what `value` does not know stays as it stands.
pub(super) fn expand<E>(
    text: &str,
    mut value: impl FnMut(&str) -> Result<Option<String>, E>,
) -> Result<String, E> {
    let mut expanded = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Escape => expanded.push('$'),
            Piece::Variable(name) => match value(name)? {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&format!("$({name})")),
            },
        }
    }
    Ok(expanded)
}

/// The text that [`expand`] makes this one of, where these variables are known.
pub(in super::super) fn escape(text: &str, is_known: impl Fn(&str) -> bool) -> String {
    let piece = |piece: Piece<'_>| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Escape => "$$$$".to_owned(),
        Piece::Variable(name) if is_known(name) => format!("$$({name})"),
        Piece::Variable(name) => format!("$({name})"),
    };
    pieces(text).into_iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, expected) in [
            ("1", Some(1_000)),
            ("500m", Some(500)),
            ("1.5", Some(1_500)),
            ("0.0001", Some(1)),
            ("64Mi", Some((64 << 20) * 1_000)),
            ("1.5Gi", Some((3 << 29) * 1_000)),
            ("128M", Some(128_000_000_000)),
            ("1e3", Some(1_000_000)),
            ("2E", None),
            ("", None),
            (".", None),
            ("-1", None),
            ("1.2.3", None),
            ("64MB", None),
            ("1e99", None),
            ("999999999999Pi", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text}");
        }
    }

    #[test]
    fn variables_are_replaced_and_what_is_escaped_stays() {
        let expanded =
            |text: &str| expand(text, |name| Ok::<_, ()>((name == "A").then(|| "b".to_owned()))).unwrap();
        for (text, expected) in [
            ("$(A)", "b"),
            ("x$(A)y$(A)", "xbyb"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$b"),
            ("$(B)", "$(B)"),
            ("$(date) $A ${A} $", "$(date) $A ${A} $"),
            ("echo $$", "echo $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
        for text in ["$(A)", "$$", "$$$(A)", "$(date) $A $", "$$(B)", "a$", "$(A$(A))", "$(a$$b)", "é$(A)ü"]
        {
            assert_eq!(expanded(&escape(text, |name| name == "A")), text);
        }
        assert_eq!(escape("$(date) $HOME", |name| name == "A"), "$(date) $HOME");
    }
}
