//! Words in a value: split as systemd splits them, and written so that systemd splits them again into the same.

use std::fmt::Write as _;

/// What a backslash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    /// The beginning of an escape as C has them, as in command lines and environments.
    Resolved,
    /// A letter, as in lists of unit names.
    Kept,
}

/// A value that can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// `"a` or `'a`
    #[error("a quotation does not end")]
    OpenQuote,
    /// `\y`, or a number that is no letter.
    #[error("there is an escape that systemd does not know")]
    UnknownEscape,
    /// `\xff` alone.
    #[error("its escapes make bytes that are no UTF-8")]
    NotUtf8,
}

/// Splits a value at spaces that are not in quotes, and takes the quotes away.
///
/// # Errors
/// Open quotes and unknown escapes.
pub fn split(value: &str, escapes: Escapes) -> Result<Vec<String>, WordError> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote: Option<char> = None;
    let mut rest = value.chars();
    while let Some(letter) = rest.next() {
        match (letter, quote) {
            ('\\', _) if escapes == Escapes::Resolved => {
                unescape(&mut rest, word.get_or_insert_default())?;
            }
            (mark, Some(open)) if mark == open => quote = None,
            (mark @ ('"' | '\''), None) => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            (space, None) if space.is_ascii_whitespace() => {
                if let Some(word) = word.take() {
                    words.push(word);
                }
            }
            (other, _) => push(word.get_or_insert_default(), other),
        }
    }
    if quote.is_some() {
        return Err(WordError::OpenQuote);
    }
    words.extend(word);
    words.into_iter().map(|word| String::from_utf8(word).map_err(|_| WordError::NotUtf8)).collect()
}

fn push(word: &mut Vec<u8>, letter: char) {
    word.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What follows a backslash. Source: systemd.syntax(7), "Supported escapes".
fn unescape(rest: &mut std::str::Chars<'_>, word: &mut Vec<u8>) -> Result<(), WordError> {
    let simple = match rest.next().ok_or(WordError::UnknownEscape)? {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        's' => b' ',
        '\\' => b'\\',
        '"' => b'"',
        '\'' => b'\'',
        'x' => u8::try_from(number(rest, 16, 2)?).map_err(|_| WordError::UnknownEscape)?,
        'u' => return push_code(word, number(rest, 16, 4)?),
        'U' => return push_code(word, number(rest, 16, 8)?),
        first @ '0'..='3' => {
            let first = first.to_digit(8).ok_or(WordError::UnknownEscape)?;
            u8::try_from(first * 64 + number(rest, 8, 2)?).map_err(|_| WordError::UnknownEscape)?
        }
        _ => return Err(WordError::UnknownEscape),
    };
    // No argument and no variable can have one.
    if simple == 0 {
        return Err(WordError::UnknownEscape);
    }
    word.push(simple);
    Ok(())
}

fn push_code(word: &mut Vec<u8>, code: u32) -> Result<(), WordError> {
    push(word, char::from_u32(code).filter(|letter| *letter != '\0').ok_or(WordError::UnknownEscape)?);
    Ok(())
}

fn number(rest: &mut std::str::Chars<'_>, base: u32, digits: usize) -> Result<u32, WordError> {
    let mut value: u32 = 0;
    for _ in 0..digits {
        let digit = rest.next().and_then(|digit| digit.to_digit(base)).ok_or(WordError::UnknownEscape)?;
        value = value.checked_mul(base).ok_or(WordError::UnknownEscape)? + digit;
    }
    Ok(value)
}

/// Writes a word so that it is one word again. Specifiers (`%n`) and variables (`$A`) in it stay what they are.
pub fn quote(word: &str) -> String {
    let is_plain = |letter: char| {
        !letter.is_whitespace() && !letter.is_control() && !matches!(letter, '"' | '\'' | '\\')
    };
    // A semicolon alone would begin the next command.
    if !word.is_empty() && word != ";" && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for letter in word.chars() {
        match letter {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(letter);
            }
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            other if other.is_control() => {
                // Writing to a String can't fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(other));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A command line of these words.
pub fn command_line<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Writes what is no specifier and no variable so that systemd takes it for none.
pub fn literal(text: &str) -> String {
    text.replace('%', "%%").replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: &[&str]) {
        assert_eq!(split(value, Escapes::Resolved).unwrap(), expected, "{value}");
    }

    #[test]
    fn words_are_split_as_systemd_splits_them() {
        check("", &[]);
        check("  a  b\tc ", &["a", "b", "c"]);
        check("\"a b\" 'c d' e\"f g\"h", &["a b", "c d", "ef gh"]);
        check("\"\" ''", &["", ""]);
        check("'a\"b' \"c'd\"", &["a\"b", "c'd"]);
        check(
            r#"a\sb a\x20b \110ello \u00e4 \U0001F600 \\ \" \t"#,
            &["a b", "a b", "Hello", "ä", "😀", "\\", "\"", "\t"],
        );
        check(r"\xc3\xa4", &["ä"]);
        assert_eq!(split(r"a\x2db 'c\d'", Escapes::Kept).unwrap(), [r"a\x2db", r"c\d"]);
    }

    #[test]
    fn what_cannot_be_split_is_told() {
        assert_eq!(split("\"a", Escapes::Resolved), Err(WordError::OpenQuote));
        for wrong in [r"\", r"\y", r"\x1", r"\x00", r"\000", r"\400", r"\u12", r"\ud800", r"\U00110000"] {
            assert_eq!(split(wrong, Escapes::Resolved), Err(WordError::UnknownEscape), "{wrong}");
        }
        assert_eq!(split(r"\xff", Escapes::Resolved), Err(WordError::NotUtf8));
    }

    #[test]
    fn what_is_quoted_is_the_same_word_again() {
        for word in [
            "",
            "a",
            "a b",
            ";",
            "a;b",
            "\"",
            "'",
            "\\",
            "\n\t\r\u{7}\u{1b}",
            "ä\u{a0}ö",
            "%n",
            "$A",
            "--x=y z",
        ] {
            check(&quote(word), &[word]);
        }
        assert_eq!(command_line(["a", "b c", "%n"]), "a \"b c\" %n");
        assert_eq!(literal("100% $HOME"), "100%% $$HOME");
    }
}
