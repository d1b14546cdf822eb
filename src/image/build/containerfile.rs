//! The instructions of a Containerfile, each with its line.
//!
//! Source: the Dockerfile reference ("Format", "Parser directives", "Here-documents"). A logical line is what is left when
//! escaped ends of lines, and comments and empty lines between them, are gone; what its words mean is found out later.

use std::fmt;

use super::heredoc::{self, Heredoc};

/// A larger one is refused: nobody has written it.
const BYTES_MAX: usize = 4 << 20;

/// A Containerfile that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerfile {
    /// What takes the meaning from the next letter: `\`, or a backtick.
    pub escape: char,
    /// In their order.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The line that it begins in, from 1.
    pub line: usize,
    /// What it is.
    pub keyword: Keyword,
    /// The options before its arguments.
    pub flags: Vec<Flag>,
    /// What follows, as it stands, in one line.
    pub rest: String,
    /// The documents that it announces.
    pub heredocs: Vec<Heredoc>,
}

/// An option of an instruction: `--name`, or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Without the hyphens.
    pub name: String,
    /// As it stands, with its quotes and variables.
    pub value: Option<String>,
}

/// A text that is no Containerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: usize,
    /// The instruction, as far as it is known.
    pub instruction: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

macro_rules! keywords {
    ($($name:ident $text:literal,)*) => {
        /// What an instruction does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)] // the names are the words themselves
        pub enum Keyword { $($name,)* }

        impl Keyword {
            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            fn parse(word: &str) -> Option<Self> {
                match word.to_ascii_uppercase().as_str() {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

keywords! {
    Add "ADD", Arg "ARG", Cmd "CMD", Copy "COPY", Entrypoint "ENTRYPOINT", Env "ENV", Expose "EXPOSE", From "FROM",
    Healthcheck "HEALTHCHECK", Label "LABEL", Maintainer "MAINTAINER", Onbuild "ONBUILD", Run "RUN", Shell "SHELL",
    Stopsignal "STOPSIGNAL", User "USER", Volume "VOLUME", Workdir "WORKDIR",
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Keyword {
    /// The options that it may have; `None` if it takes none, and what begins with hyphens is an argument.
    fn flags(self) -> Option<&'static [&'static str]> {
        match self {
            Self::From => Some(&["platform"]),
            Self::Run => Some(&["mount", "network", "security"]),
            Self::Copy => Some(&["from", "chown", "chmod", "link", "parents", "exclude"]),
            Self::Add => Some(&["chown", "chmod", "link", "checksum", "keep-git-dir", "exclude", "unpack"]),
            Self::Healthcheck => Some(&["interval", "timeout", "start-period", "start-interval", "retries"]),
            _ => None,
        }
    }

    fn has_heredocs(self) -> bool {
        matches!(self, Self::Run | Self::Copy | Self::Add)
    }
}

impl fmt::Display for Instruction {
    /// As it was written, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword.as_str())?;
        for flag in &self.flags {
            write!(f, " --{}", flag.name)?;
            if let Some(value) = &flag.value {
                write!(f, "={value}")?;
            }
        }
        write!(f, " {}", self.rest)
    }
}

impl Instruction {
    /// Reads one instruction alone, as ONBUILD keeps them.
    ///
    /// # Errors
    /// [`SyntaxError`], with the line that is given.
    pub fn parse(text: &str, line: usize, escape: char) -> Result<Self, SyntaxError> {
        let mut lines = Lines::new(text);
        match instruction(&mut lines, escape)? {
            Some(instruction) => Ok(Self { line, ..instruction }),
            None => Err(SyntaxError {
                line,
                instruction: String::new(),
                reason: "there is no instruction".to_owned(),
            }),
        }
    }

    /// The last value of an option.
    pub fn flag(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().rev().find(|flag| flag.name == name)
    }
}

impl Containerfile {
    /// Reads a Containerfile.
    ///
    /// # Errors
    /// [`SyntaxError`] for the first line that makes no sense.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let refused = |line, reason: &str| {
            Err(SyntaxError { line, instruction: String::new(), reason: reason.to_owned() })
        };
        if text.len() > BYTES_MAX {
            return refused(1, "it is larger than 4 MiB, and no Containerfile");
        }
        if let Some(at) = text.find('\0') {
            let line = text[..at].matches('\n').count() + 1;
            return refused(line, "it has a NUL byte, and is no text");
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let escape = escape_of(text)?;
        let mut lines = Lines::new(text);
        let mut instructions: Vec<Instruction> = Vec::new();
        let mut has_stage = false;
        while let Some(instruction) = instruction(&mut lines, escape)? {
            has_stage |= instruction.keyword == Keyword::From;
            if !has_stage && instruction.keyword != Keyword::Arg {
                return Err(SyntaxError {
                    line: instruction.line,
                    instruction: instruction.to_string(),
                    reason: "only ARG may stand before the first FROM".to_owned(),
                });
            }
            instructions.push(instruction);
        }
        if !has_stage {
            return refused(lines.number.max(1), "there is no FROM, which says what to begin with");
        }
        Ok(Self { escape, instructions })
    }
}

/// Physical lines, counted; `\r\n` ends one as `\n` does.
struct Lines<'a> {
    lines: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { lines: text.lines(), number: 0 }
    }

    fn next(&mut self) -> Option<&'a str> {
        let line = self.lines.next()?;
        self.number += 1;
        Some(line)
    }
}

/// The directive `escape` among the comments at the top.
fn escape_of(text: &str) -> Result<char, SyntaxError> {
    for (index, line) in text.lines().enumerate() {
        let Some((name, value)) = line.trim().strip_prefix('#').and_then(|rest| rest.split_once('=')) else {
            break;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "escape" => match value.trim() {
                "\\" => return Ok('\\'),
                "`" => return Ok('`'),
                other => {
                    return Err(SyntaxError {
                        line: index + 1,
                        instruction: line.to_owned(),
                        reason: format!("{other:?} can't be the escape character; \\ and ` can"),
                    });
                }
            },
            // Which program reads the file is decided already.
            "syntax" | "check" => {}
            _ => break,
        }
    }
    Ok('\\')
}

fn instruction(lines: &mut Lines<'_>, escape: char) -> Result<Option<Instruction>, SyntaxError> {
    let Some((line, text)) = logical_line(lines, escape) else { return Ok(None) };
    let (keyword, flags, rest) = parts(&text, line, escape)?;
    let mut instruction = Instruction { line, keyword, flags, rest, heredocs: Vec::new() };
    let announcing = match keyword {
        Keyword::Onbuild => {
            let inner = parts(&instruction.rest, line, escape)?.0;
            if matches!(inner, Keyword::Onbuild | Keyword::From | Keyword::Maintainer) {
                return Err(SyntaxError {
                    line,
                    instruction: instruction.to_string(),
                    reason: format!("{inner} can't be kept for a later build"),
                });
            }
            inner.has_heredocs()
        }
        keyword => keyword.has_heredocs(),
    };
    if announcing && exec_form(&instruction.rest).is_none() {
        for mut heredoc in heredoc::announced(&instruction.rest, escape) {
            loop {
                let Some(next) = lines.next() else {
                    return Err(SyntaxError {
                        line,
                        instruction: instruction.to_string(),
                        reason: format!(
                            "the document {:?} has no end; a line of only that word ends it",
                            heredoc.name
                        ),
                    });
                };
                if !heredoc.take(next) {
                    break;
                }
            }
            instruction.heredocs.push(heredoc);
        }
    }
    Ok(Some(instruction))
}

/// The next line that says something, with those that it goes on in.
fn logical_line(lines: &mut Lines<'_>, escape: char) -> Option<(usize, String)> {
    let says_nothing = |line: &str| {
        let line = line.trim_start();
        line.is_empty() || line.starts_with('#')
    };
    let first = loop {
        let line = lines.next()?;
        if !says_nothing(line) {
            break line.trim_start();
        }
    };
    let begin = lines.number;
    let mut text = String::new();
    let mut line = first;
    while let Some(part) = goes_on(line, escape) {
        text.push_str(part);
        line = loop {
            match lines.next() {
                None => break "",
                Some(next) if says_nothing(next) => {}
                Some(next) => break next,
            }
        };
        if line.is_empty() {
            break;
        }
    }
    text.push_str(line);
    Some((begin, text.trim_end().to_owned()))
}

/// What stands before an escaped end of a line; an escape that is escaped itself is none.
fn goes_on(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    let more = part.chars().rev().take_while(|letter| *letter == escape).count();
    (more % 2 == 0).then_some(part)
}

fn parts(text: &str, line: usize, escape: char) -> Result<(Keyword, Vec<Flag>, String), SyntaxError> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let refused = |reason: String| SyntaxError { line, instruction: shown(text), reason };
    let keyword = Keyword::parse(word)
        .ok_or_else(|| refused(format!("{:?} is no instruction that is known here", shown(word))))?;
    let mut rest = rest.trim();
    let mut flags = Vec::new();
    if let Some(known) = keyword.flags() {
        while rest.starts_with("--") {
            let length = flag_length(rest, escape);
            let (word, after) = rest.split_at(length);
            rest = after.trim_start();
            let word = &word[2..];
            if word.is_empty() {
                break;
            }
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value.to_owned())));
            if !known.contains(&name) {
                let known: Vec<String> = known.iter().map(|name| format!("--{name}")).collect();
                return Err(refused(format!(
                    "{keyword} has no option --{name}; it has {}",
                    known.join(", ")
                )));
            }
            flags.push(Flag { name: name.to_owned(), value });
        }
    }
    if rest.is_empty() {
        return Err(refused(format!("{keyword} wants an argument")));
    }
    Ok((keyword, flags, rest.to_owned()))
}

/// Up to the first white space that is neither quoted nor escaped.
fn flag_length(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match quote {
            _ if letter == escape && quote != Some('\'') => escaped = true,
            None if letter.is_whitespace() => return at,
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            Some(end) if letter == end => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The words of a JSON array of strings; `None` for anything else, which is for a shell.
pub fn exec_form(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, String)> {
        let file = Containerfile::parse(text).unwrap();
        file.instructions.iter().map(|each| (each.line, each.to_string())).collect()
    }

    #[track_caller]
    fn refused(text: &str, line: usize, part: &str) {
        let error = Containerfile::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{error:?}");
        assert!(error.reason.contains(part), "{error:?}");
    }

    #[test]
    fn lines_go_on_behind_an_escape_and_comments_between_are_passed_over() {
        let text = "# a comment\nfrom x\n\nRUN a && \\\n  # why\n\n  b \\ \n  c\nCMD [\"d\"]\n";
        assert_eq!(
            lines(text),
            [(2, "FROM x".into()), (4, "RUN a &&   b   c".into()), (9, "CMD [\"d\"]".into())]
        );
        assert_eq!(lines("FROM x\r\nRUN a \\\r\n b\r\n")[1].1, "RUN a  b");
        assert_eq!(lines("FROM x\nRUN echo \\\\\nRUN b")[1].1, "RUN echo \\\\");
    }

    #[test]
    fn another_escape_can_be_chosen_at_the_top() {
        assert_eq!(lines("# escape=`\nFROM x\nRUN a `\n b\\\n")[1].1, "RUN a  b\\");
        assert_eq!(
            lines("# said before\n# escape=`\nFROM x\\\n:1\n")[0].1,
            "FROM x:1",
            "it must stand at the top"
        );
        refused("# escape=x\nFROM y\n", 1, "can't be the escape");
    }

    #[test]
    fn options_come_before_arguments() {
        let file = Containerfile::parse("FROM x\nCOPY --from=a --chown=\"1 2\" --link b --c d\nENV --x=y\n")
            .unwrap();
        let copy = &file.instructions[1];
        assert_eq!(copy.rest, "b --c d");
        assert_eq!(copy.flag("from").unwrap().value.as_deref(), Some("a"));
        assert_eq!(copy.flag("chown").unwrap().value.as_deref(), Some("\"1 2\""));
        assert_eq!(copy.flag("link").unwrap().value, None);
        assert_eq!(file.instructions[2].rest, "--x=y");
        refused("FROM x\nCOPY --what=a b c\n", 2, "--what");
    }

    #[test]
    fn documents_follow_the_line_that_announces_them() {
        let text = "FROM x\nRUN cat <<A >x && cat <<-'B'\n1 \\\nA\n\t2\n\tB\nCOPY <<\"c.txt\" /d/\n$x\nc.txt\nUSER z\n";
        let file = Containerfile::parse(text).unwrap();
        let run = &file.instructions[1].heredocs;
        assert_eq!((run[0].name.as_str(), run[0].content.as_str(), run[0].expand), ("A", "1 \\\n", true));
        assert_eq!((run[1].name.as_str(), run[1].content.as_str(), run[1].expand), ("B", "2\n", false));
        let copy = &file.instructions[2].heredocs;
        assert_eq!(
            (copy[0].name.as_str(), copy[0].content.as_str(), copy[0].expand),
            ("c.txt", "$x\n", false)
        );
        assert_eq!(file.instructions[3].line, 10);
        for shift in ["RUN echo $((1<<2))", "RUN cat <<<word", "RUN [\"cat\", \"<<A\"]", "CMD cat <<A"] {
            let file = Containerfile::parse(&format!("FROM x\n{shift}\n")).unwrap();
            assert!(file.instructions[1].heredocs.is_empty(), "{shift}");
        }
        refused("FROM x\nRUN <<EOF\na\n", 2, "no end");
    }

    #[test]
    fn what_is_no_containerfile_is_refused_with_its_line() {
        refused("", 1, "no FROM");
        refused("# only\n", 1, "no FROM");
        refused("ARG a\nRUN b\nFROM c\n", 2, "before the first FROM");
        refused("FROM x\n\nBAKE bread\n", 3, "BAKE");
        refused("FROM x\nRUN\n", 2, "wants an argument");
        refused("FROM x\nONBUILD FROM y\n", 2, "later build");
        refused("FROM x\nRUN a\0b\n", 2, "NUL");
    }
}
