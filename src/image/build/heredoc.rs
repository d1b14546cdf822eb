//! Documents in the middle of a Containerfile: `<<NAME`, lines, and `NAME` again.

use super::words;

/// A document that an instruction brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, and the name of the file that COPY makes of it.
    pub name: String,
    /// Variables are replaced in it: the word had no quotes.
    pub expand: bool,
    /// Each line with its end; leading tabs are gone if it began with `<<-`.
    pub content: String,
    /// Tabs are taken away from each line.
    pub(super) strip_tabs: bool,
}

/// The documents that a line announces, still empty.
pub(super) fn announced(line: &str, escape: char) -> Vec<Heredoc> {
    words::split(line, escape).iter().filter_map(|word| of_word(word)).collect()
}

/// `<<EOF`, `<<-EOF`, `3<<"EOF"`; what a shell has behind the name, as in `<<EOF>file`, does not belong to it.
fn of_word(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|letter: char| letter.is_ascii_digit()).strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (name, expand) = match rest.chars().next()? {
        quote @ ('"' | '\'') => (rest[1..].split(quote).next()?, false),
        _ => {
            let ends = |letter: char| matches!(letter, '<' | '>' | '|' | '&' | ';' | '(' | ')');
            (rest.split(ends).next()?, true)
        }
    };
    if name.is_empty() || rest.starts_with('<') {
        return None;
    }
    Some(Heredoc { name: name.to_owned(), expand, content: String::new(), strip_tabs })
}

impl Heredoc {
    /// Whether a word of a line announces a document.
    pub fn is_announced_by(word: &str) -> bool {
        of_word(word).is_some()
    }

    /// Takes one line (without its end); false if it is the end of the document.
    pub(super) fn take(&mut self, line: &str) -> bool {
        let line = if self.strip_tabs { line.trim_start_matches('\t') } else { line };
        if line == self.name {
            return false;
        }
        self.content.push_str(line);
        self.content.push('\n');
        true
    }
}
