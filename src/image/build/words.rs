//! Words of a line, with quotes, escapes and variables, as the Dockerfile reference has them ("Environment replacement").
//!
//! A word is cut out as it stands ([`split`]), and made what it means later ([`expand`]), when the variables are known.

/// What is wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts tell
pub enum WordError {
    #[error("the quote {quote} in {word:?} has no end")]
    Quote { quote: char, word: String },
    #[error("the variable in {word:?} has no closing brace")]
    Brace { word: String },
    #[error(
        "{text:?} in {word:?} is no way to use a variable; ${{NAME}}, ${{NAME:-word}} and ${{NAME:+word}} are"
    )]
    Modifier { text: String, word: String },
    #[error("{name}: {message}")]
    Required { name: String, message: String },
}

/// How deep a variable may stand in the default of another one.
const DEPTH_MAX: usize = 32;

/// Cuts a text at its white space, but not within quotes or behind the escape character; both stay where they are. A quote
/// without an end reaches to the end of the text.
pub fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match quote {
            None if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            Some(end) if letter == end => quote = None,
            _ => {}
        }
        word.push(letter);
        // Within single quotes the escape is a letter like others.
        if letter == escape && quote != Some('\'') {
            word.extend(letters.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What a word means: quotes and escapes are gone, variables are replaced by what `lookup` knows of them.
///
/// # Errors
/// [`WordError`].
pub fn expand(
    word: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, WordError> {
    let letters: Vec<char> = word.chars().collect();
    let mut expander = Expander { letters: &letters, at: 0, escape, lookup, word, raw: false };
    expander.until(None, 0)
}

/// As [`expand`], for a document: quotes are letters like others.
///
/// # Errors
/// [`WordError`].
pub fn expand_document(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, WordError> {
    let letters: Vec<char> = text.chars().collect();
    let mut expander = Expander { letters: &letters, at: 0, escape, lookup, word: text, raw: true };
    expander.until(None, 0)
}

struct Expander<'a> {
    letters: &'a [char],
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// The whole word, for errors.
    word: &'a str,
    /// Quotes mean nothing.
    raw: bool,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += 1;
        Some(letter)
    }

    fn shown(&self) -> String {
        self.word.chars().take(80).collect()
    }

    /// Reads up to a closing brace, which is consumed, or to the end.
    fn until(&mut self, end: Option<char>, depth: usize) -> Result<String, WordError> {
        let mut text = String::new();
        while let Some(letter) = self.next() {
            match letter {
                letter if Some(letter) == end => return Ok(text),
                '\'' if !self.raw => loop {
                    match self.next() {
                        Some('\'') => break,
                        Some(letter) => text.push(letter),
                        None => return Err(WordError::Quote { quote: '\'', word: self.shown() }),
                    }
                },
                '"' if !self.raw => self.double_quoted(&mut text, depth)?,
                '$' => text.push_str(&self.variable(depth)?),
                letter if letter == self.escape => match self.peek() {
                    Some(next) if !self.raw || next == '$' || next == self.escape => {
                        self.at += 1;
                        text.push(next);
                    }
                    // At the end of a word it stands for itself.
                    _ => text.push(letter),
                },
                letter => text.push(letter),
            }
        }
        match end {
            None => Ok(text),
            Some(_) => Err(WordError::Brace { word: self.shown() }),
        }
    }

    fn double_quoted(&mut self, text: &mut String, depth: usize) -> Result<(), WordError> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => text.push_str(&self.variable(depth)?),
                Some(letter) if letter == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => text.push(next),
                    Some(next) => text.extend([letter, next]),
                    None => return Err(WordError::Quote { quote: '"', word: self.shown() }),
                },
                Some(letter) => text.push(letter),
                None => return Err(WordError::Quote { quote: '"', word: self.shown() }),
            }
        }
    }

    /// Behind a `$`.
    fn variable(&mut self, depth: usize) -> Result<String, WordError> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok((self.lookup)(&name).unwrap_or_default());
        }
        self.at += 1;
        let begin = self.at;
        let name = self.name();
        let known = (self.lookup)(&name);
        let modifier = |expander: &Self| WordError::Modifier {
            text: expander.letters[begin..].iter().take(40).collect(),
            word: expander.shown(),
        };
        if name.is_empty() || depth >= DEPTH_MAX {
            return Err(modifier(self));
        }
        let (colon, sign) = match self.next() {
            Some('}') => return Ok(known.unwrap_or_default()),
            Some(':') => (true, self.next()),
            sign => (false, sign),
        };
        let sign = sign.ok_or_else(|| WordError::Brace { word: self.shown() })?;
        // With a colon, what is empty counts as not set.
        let set = known.as_ref().is_some_and(|value| !colon || !value.is_empty());
        let value = known.unwrap_or_default();
        match sign {
            '-' | '+' | '?' => {
                let word = self.until(Some('}'), depth + 1)?;
                match (sign, set) {
                    ('-', true) | ('?', true) => Ok(value),
                    ('-', false) | ('+', true) => Ok(word),
                    ('?', false) => {
                        let message = if word.is_empty() { "it is not set".to_owned() } else { word };
                        Err(WordError::Required { name, message })
                    }
                    _ => Ok(String::new()),
                }
            }
            '#' | '%' if !colon => {
                let longest = self.peek() == Some(sign);
                self.at += usize::from(longest);
                let pattern = self.until(Some('}'), depth + 1)?;
                Ok(trimmed(&value, &pattern, sign == '#', longest))
            }
            '/' if !colon => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let both = self.until(Some('}'), depth + 1)?;
                let (pattern, replacement) = both.split_once('/').unwrap_or((&both, ""));
                Ok(replaced(&value, pattern, replacement, all))
            }
            _ => Err(modifier(self)),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(letter) = self.peek() {
            let fits = letter.is_ascii_alphanumeric() || letter == '_';
            if !fits {
                break;
            }
            name.push(letter);
            self.at += 1;
            // $1 is a name of one digit, as in a shell.
            if name.len() == 1 && letter.is_ascii_digit() {
                break;
            }
        }
        name
    }
}

/// Takes what fits a pattern (`*` and `?`) away from the beginning or the end.
fn trimmed(value: &str, pattern: &str, at_start: bool, longest: bool) -> String {
    let cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
    let fits = |cut: &usize| {
        let part = if at_start { &value[..*cut] } else { &value[*cut..] };
        fits_glob(pattern, part)
    };
    // From the shortest part to the longest, or the other way round.
    let from_start = at_start != longest;
    let cut =
        if from_start { cuts.iter().find(|cut| fits(cut)) } else { cuts.iter().rev().find(|cut| fits(cut)) };
    match cut {
        Some(cut) if at_start => value[*cut..].to_owned(),
        Some(cut) => value[..*cut].to_owned(),
        None => value.to_owned(),
    }
}

fn replaced(value: &str, pattern: &str, replacement: &str, all: bool) -> String {
    let mut text = String::new();
    let mut rest = value;
    while !rest.is_empty() {
        let ends = rest.char_indices().map(|(at, letter)| at + letter.len_utf8()).rev();
        let end = ends.into_iter().find(|end| fits_glob(pattern, &rest[..*end]));
        match end {
            Some(end) => {
                text.push_str(replacement);
                rest = &rest[end..];
                if !all {
                    break;
                }
            }
            None => {
                let first = rest.chars().next().map_or(0, char::len_utf8);
                text.push_str(&rest[..first]);
                rest = &rest[first..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// `*` for anything, `?` for one letter; without going back more than once for each star.
fn fits_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some('?') => (p, t) = (p + 1, t + 1),
            Some(letter) if *letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: &str) {
        let lookup = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "P" => Some("/usr/lib/a.tar.gz".to_owned()),
            _ => None,
        };
        assert_eq!(expand(word, '\\', &lookup).as_deref(), Ok(expected), "{word}");
    }

    #[test]
    fn words_are_cut_at_white_space_that_is_not_quoted() {
        let cut = |text| split(text, '\\');
        assert_eq!(cut(r#"a  "b c" d\ e 'f \' g="h i""#), ["a", r#""b c""#, r"d\ e", r"'f \'", r#"g="h i""#]);
        assert_eq!(cut("  "), Vec::<String>::new());
        assert_eq!(cut("\"open end"), ["\"open end"]);
        assert_eq!(split("a` b", '`'), ["a` b"]);
    }

    #[test]
    fn quotes_and_escapes_go_and_variables_become_what_they_are() {
        check("plain", "plain");
        check("$A/${A}x", "one/onex");
        check("'$A'\"$A\"", "$Aone");
        check(r"\$A", "$A");
        check(r#""a \"b\" \n""#, r#"a "b" \n"#);
        check("$MISSING-", "-");
        check("cost $ 5", "cost $ 5");
        check(r"end\", r"end\");
    }

    #[test]
    fn modifiers_are_those_of_a_shell() {
        check("${MISSING:-two}", "two");
        check("${EMPTY:-two}", "two");
        check("${EMPTY-two}", "");
        check("${A:+three}", "three");
        check("${MISSING+three}", "");
        check("${MISSING:-${A}/x}", "one/x");
        check("${P##*/}", "a.tar.gz");
        check("${P#*/}", "usr/lib/a.tar.gz");
        check("${P%.*}", "/usr/lib/a.tar");
        check("${P%%.*}", "/usr/lib/a");
        check("${P/lib/share}", "/usr/share/a.tar.gz");
        check("${P//a/o}", "/usr/lib/o.tor.gz");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = |_: &str| None;
        for word in ["'a", "\"a", "${A", "${}", "${A!x}", "${A:-x", "${A:?}", "${A:?give it}"] {
            assert!(expand(word, '\\', &none).is_err(), "{word}");
        }
        let deep = "${A:-".repeat(1000) + &"}".repeat(1000);
        assert!(expand(&deep, '\\', &none).is_err());
    }

    #[test]
    fn in_a_document_quotes_stay() {
        let lookup = |name: &str| (name == "A").then(|| "one".to_owned());
        assert_eq!(
            expand_document("\"$A\" '$A' \\$A \\n\n", '\\', &lookup).unwrap(),
            "\"one\" 'one' $A \\n\n"
        );
    }
}
