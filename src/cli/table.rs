//! Tables for people: a head, aligned columns, no lines. What a container says about itself (its status text, its
//! command) passes through here on its way to a terminal, so control characters never come out.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

/// Rows below a head.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table; each row must have as many cells as `head`.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        debug_assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Lays the table out; the text ends with a line end.
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| cell.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut text = String::new();
        push_line(&mut text, &widths, self.head.iter().copied());
        for row in &self.rows {
            push_line(&mut text, &widths, row.iter().map(String::as_str));
        }
        text
    }
}

fn push_line<'a>(text: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let begin = text.len();
    for (cell, width) in cells.zip(widths) {
        let padding = width - cell.width().min(*width) + 2;
        text.push_str(cell);
        text.extend(std::iter::repeat_n(' ', padding));
    }
    text.truncate(begin + text[begin..].trim_end().len());
    text.push('\n');
}

/// Lays out names and values below each other: `Kernel:  6.1.0`.
pub fn render_fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (name, value) in fields {
        let label = format!("{name}:");
        let line = format!("{label:<width$}  {}", printable(value));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Replaces control characters, which could steer the terminal, by U+FFFD, and line ends and tabs by a space.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            // The bidirectional controls reorder what is around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Cuts a text to at most `width` columns, and marks that by an ellipsis.
pub fn truncated(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if cut.width() >= width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

/// The first 12 digits of an id, as people say it; the whole of it with `--no-trunc`.
pub fn short_id(id: &str, whole: bool) -> String {
    let bare = id.strip_prefix("sha256:").unwrap_or(id);
    if whole { id.to_owned() } else { bare.chars().take(12).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "STATUS"]);
        table.row(["web".to_owned(), "up 3 minutes".to_owned()]);
        table.row(["a-long-name".to_owned(), String::new()]);
        table.row(["日本".to_owned(), "created".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME         STATUS\nweb          up 3 minutes\na-long-name\n日本         created\n"
        );
    }

    #[test]
    fn a_container_cannot_steer_the_terminal_through_a_table() {
        let mut table = Table::new(&["STATUS"]);
        table.row(["\u{1b}[2Jgone\r\n\u{202e}x".to_owned()]);
        assert_eq!(table.render(), "STATUS\n\u{fffd}[2Jgone\u{fffd} \u{fffd}x\n");
    }

    #[test]
    fn a_long_text_is_cut_with_an_ellipsis() {
        assert_eq!(truncated("sleep 100", 20), "sleep 100");
        assert_eq!(truncated("sleep 100", 6), "sleep…");
        assert_eq!(truncated("日本語", 4), "日…");
    }

    #[test]
    fn ids_are_cut_to_twelve_digits_without_the_algorithm() {
        let id = "sha256:0123456789abcdef";
        assert_eq!(short_id(id, false), "0123456789ab");
        assert_eq!(short_id(id, true), id);
    }

    #[test]
    fn fields_stand_below_each_other() {
        assert_eq!(render_fields(&[("A", "1".into()), ("Longer", "2".into())]), "A:       1\nLonger:  2\n");
    }
}
