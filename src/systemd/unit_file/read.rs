//! From text to sections and assignments, by the rules of systemd.syntax(7).

use std::sync::Arc;

use super::{Assignment, Origin, UnitFile};

/// Longer lines than this are no unit file; systemd has the same limit.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A line that is none of a unit file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct ReadError {
    /// The file's path.
    pub file: Arc<str>,
    /// From 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

pub(super) fn read(path: &str, text: &str) -> Result<UnitFile, ReadError> {
    let mut reader = Reader { file: Arc::from(path), unit: UnitFile::default(), section: None };
    // A line that goes on, and where it began.
    let mut begun: Option<(String, usize)> = None;
    // The mark of the byte order, as some editors leave it.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = index + 1;
        if line.len() > LINE_BYTES_MAX {
            return Err(reader.error(number, "the line is too long"));
        }
        let line = line.trim_end();
        if line.contains('\0') {
            return Err(reader.error(number, "there is a NUL in the line"));
        }
        // Comments may stand between the parts of a line, and never go on.
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let goes_on = ends_in_escape(line);
        let part = if goes_on { &line[..line.len() - 1] } else { line };
        let (whole, first) = match begun.take() {
            // The backslash and the end of the line are a space.
            Some((mut whole, first)) => {
                whole.push(' ');
                whole.push_str(part);
                (whole, first)
            }
            None => (part.to_owned(), number),
        };
        if whole.len() > LINE_BYTES_MAX {
            return Err(reader.error(first, "the line is too long"));
        }
        if goes_on {
            begun = Some((whole, first));
        } else {
            reader.line(whole.trim(), first)?;
        }
    }
    if let Some((whole, first)) = begun {
        reader.line(whole.trim(), first)?;
    }
    Ok(reader.unit)
}

/// Whether a line ends in a backslash that no other backslash takes the meaning of.
fn ends_in_escape(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

struct Reader {
    file: Arc<str>,
    unit: UnitFile,
    section: Option<String>,
}

impl Reader {
    fn error(&self, line: usize, reason: &'static str) -> ReadError {
        ReadError { file: Arc::clone(&self.file), line, reason }
    }

    fn line(&mut self, text: &str, number: usize) -> Result<(), ReadError> {
        if text.is_empty() {
            return Ok(());
        }
        let origin = Some(Origin { file: Arc::clone(&self.file), line: number });
        if let Some(rest) = text.strip_prefix('[') {
            let name = rest
                .strip_suffix(']')
                .ok_or_else(|| self.error(number, "the section header does not end in \"]\""))?;
            if name.is_empty() || name.contains(['[', ']']) || name.chars().any(char::is_control) {
                return Err(self.error(number, "the section header has no good name"));
            }
            self.unit.section_mut(name, origin);
            self.section = Some(name.to_owned());
            return Ok(());
        }
        let Some((key, value)) = text.split_once('=') else {
            return Err(self.error(number, "this is no section, no comment, and no assignment with \"=\""));
        };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) || key.chars().any(char::is_control) {
            return Err(self.error(number, "there is no good key before \"=\""));
        }
        let Some(section) = &self.section else {
            return Err(self.error(number, "the assignment stands before the first section"));
        };
        let assignment = Assignment { key: key.to_owned(), value: value.trim().to_owned(), origin };
        self.unit.section_mut(section, None).assignments.push(assignment);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> String {
        let unit = read("x", &format!("[S]\n{text}")).unwrap();
        unit.last("S", "K").unwrap().value.clone()
    }

    fn refused(text: &str, line: usize) {
        assert_eq!(read("x", text).unwrap_err().line, line, "{text:?}");
    }

    #[test]
    fn lines_go_on_after_a_backslash_and_comments_may_be_between() {
        assert_eq!(value("K=a \\\n  b"), "a    b");
        assert_eq!(value("K=a\\\n# no\n  ; no \\\nb\n"), "a b");
        assert_eq!(value("K=a\\\\\n"), "a\\\\");
        assert_eq!(value("K=a\\\n"), "a");
        assert_eq!(value("K=a\\\n\nL=b"), "a");
        assert_eq!(value("K=a\\  \nb"), "a b");
        assert_eq!(value("K=a\\"), "a");
        assert_eq!(value("# K=a \\\nK=b"), "b");
    }

    #[test]
    fn spaces_around_keys_and_values_do_not_count() {
        assert_eq!(value("  K  =  a = b  "), "a = b");
        assert_eq!(value("K=\" a \""), "\" a \"");
        assert_eq!(value("K=\r\n"), "");
        assert_eq!(read("x", "\u{feff}[S]\nK=1").unwrap().text("S", "K"), Some("1"));
    }

    #[test]
    fn what_is_no_unit_file_is_told_by_its_line() {
        refused("K=1", 1);
        refused("[S", 1);
        refused("[S]\n[]\n", 2);
        refused("[S]\nA=1\nwords alone\n", 3);
        refused("[S]\n=1", 2);
        refused("[S]\nA B=1", 2);
        refused("[S]\nA=\0", 2);
        refused("[S]\nA=1 \\\n2\n!", 4);
        refused(&format!("[S]\nA={}", "x".repeat(LINE_BYTES_MAX)), 2);
        refused(&format!("[S]\nA={0}\\\n{0}", "x".repeat(LINE_BYTES_MAX / 2)), 2);
    }
}
