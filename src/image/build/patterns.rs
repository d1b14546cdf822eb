//! Patterns of paths: those of a `.containerignore`, and the wild cards of COPY and ADD.
//!
//! As Docker has them: `*` and `?` stop at a slash, `**` does not, `[a-z]` is a class, `\` takes the meaning from the next
//! letter. In an ignore file a later line counts more, `!` brings back, and what fits a directory fits all that is in it.

/// The lines of an ignore file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    pattern: String,
    brings_back: bool,
}

impl Ignore {
    /// Reads the lines; those that are empty or begin with `#` say nothing.
    pub fn parse(text: &str) -> Self {
        let mut lines = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (brings_back, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let pattern = clean(pattern);
            if !pattern.is_empty() {
                lines.push(Line { pattern, brings_back });
            }
        }
        Self { lines }
    }

    /// Adds the lines of another one, which count more.
    pub fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    /// Nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a path (relative, without a slash at its end) is left out. A directory is not, if something in it may be
    /// brought back.
    pub fn leaves_out(&self, path: &str, is_directory: bool) -> bool {
        let mut out = false;
        for line in &self.lines {
            if out == line.brings_back && fits_or_holds(&line.pattern, path) {
                out = !line.brings_back;
            }
        }
        let may_hold = |line: &Line| {
            line.brings_back
                && (line.pattern.starts_with(&format!("{path}/")) || line.pattern.contains(['*', '?', '[']))
        };
        out && !(is_directory && self.lines.iter().any(may_hold))
    }
}

/// Without slashes at both ends, and without `.` and `..` as far as they can be resolved.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The path itself, or a directory that it is in.
fn fits_or_holds(pattern: &str, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.into_iter().any(|end| fits(pattern, &path[..end]))
}

/// Whether there is a wild card in it.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a path fits a pattern as a whole.
pub fn fits(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    // Row by row, which parts of the path the pattern's parts so far can have taken: no going back, however many stars.
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; path.len() + 1];
        if part == "**" {
            let mut any = false;
            for (at, before) in reached.iter().enumerate() {
                any |= before;
                next[at] = any;
            }
        } else {
            for at in 0..path.len() {
                next[at + 1] = reached[at] && part_fits(part, path[at]);
            }
        }
        reached = next;
    }
    reached[path.len()]
}

/// One component of a path.
fn part_fits(pattern: &str, name: &str) -> bool {
    let pattern = tokens(pattern);
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                star = Some((p, n));
                p += 1;
            }
            Some(token) if token.takes(name[n]) => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|token| matches!(token, Token::Any))
}

enum Token {
    Any,
    One,
    Letter(char),
    Class { denied: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Letter(own) => *own == letter,
            Self::Class { denied, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter)) != *denied
            }
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let letters: Vec<char> = pattern.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        at += 1;
        tokens.push(match letter {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' if at < letters.len() => {
                at += 1;
                Token::Letter(letters[at - 1])
            }
            '[' => match class(&letters[at..]) {
                Some((token, length)) => {
                    at += length;
                    token
                }
                None => Token::Letter('['),
            },
            letter => Token::Letter(*letter),
        });
    }
    tokens
}

/// Behind a `[`; `None` if nothing closes it.
fn class(letters: &[char]) -> Option<(Token, usize)> {
    let denied = matches!(letters.first(), Some('^' | '!'));
    let mut at = usize::from(denied);
    let mut ranges = Vec::new();
    loop {
        let mut from = *letters.get(at)?;
        at += 1;
        if from == ']' && !ranges.is_empty() {
            return Some((Token::Class { denied, ranges }, at));
        }
        if from == '\\' {
            from = *letters.get(at)?;
            at += 1;
        }
        let to = match (letters.get(at), letters.get(at + 1)) {
            (Some('-'), Some(to)) if *to != ']' => {
                at += 2;
                *to
            }
            _ => from,
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_paths() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "a/b", false),
            ("*.txt", "x.txt", true),
            ("*.txt", "d/x.txt", false),
            ("**/*.txt", "x.txt", true),
            ("**/*.txt", "d/e/x.txt", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**", "a/x", true),
            ("?[a-c]", "xb", true),
            ("[^a]", "a", false),
            ("[", "[", true),
            ("a*b*c", "axxbyyc", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!fits(&("*a".repeat(100) + "b"), &"a".repeat(5000)));
        assert!(!fits(&("**/a/".repeat(200) + "b"), &"a/".repeat(500)));
    }

    #[test]
    fn an_ignore_file_leaves_out_and_brings_back() {
        let ignore = Ignore::parse("# comment\n/target\n*.log\n!keep.log\ndocs\n!docs/README.md\n\n");
        let out = |path| ignore.leaves_out(path, false);
        assert!(out("target") && out("target/debug/x") && out("a.log"));
        assert!(!out("keep.log") && !out("src/target") && !out("src/a.log"));
        assert!(out("docs/x") && !out("docs/README.md"));
        assert!(!ignore.leaves_out("docs", true), "something in it is brought back");
        assert!(ignore.leaves_out("target", true));
    }

    #[test]
    fn only_what_is_brought_back_is_left() {
        let ignore = Ignore::parse("*\n!src\n");
        assert!(ignore.leaves_out("x", false));
        assert!(!ignore.leaves_out("src", true) && !ignore.leaves_out("src/main.rs", false));
    }
}
