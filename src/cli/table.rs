//! Tables for people: a head, aligned columns, no lines. What a container says about itself (its status text, its
//! command) passes through here on its way to a terminal, so control characters never come out.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use unicode_width::UnicodeWidthStr as _;

use crate::cli::color::{self, Style};
use crate::cli::terminal;

/// No column is cut to less, unless its head is longer: ids stay whole.
const CUT_WIDTH_MIN: usize = 12;

/// Rows below a head.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    whole: bool,
    style: fn(&str, &str) -> Option<Style>,
}

/// What a table is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Screen {
    /// How wide it is, where that matters.
    columns: Option<usize>,
    colours: bool,
}

impl Screen {
    /// Standard output: a terminal has a width, a file and a program take lines as they come.
    fn of_stdout() -> Self {
        // Tests see what a file would get, wherever they run.
        if cfg!(test) {
            return Self::default();
        }
        let is_terminal = io::stdout().is_terminal();
        let columns = terminal::size().filter(|_| is_terminal).map(|size| usize::from(size.columns));
        Self { columns, colours: color::on_stdout() }
    }
}

impl Table {
    /// Begins a table; each row must have as many cells as `head`.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), whole: false, style: |_, _| None }
    }

    /// Nothing is cut to fit the terminal.
    pub fn whole(mut self, whole: bool) -> Self {
        self.whole = whole;
        self
    }

    /// On a terminal a cell has the style that `style` tells for its column's head and its text.
    pub fn styled(mut self, style: fn(&str, &str) -> Option<Style>) -> Self {
        self.style = style;
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        debug_assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Lays the table out for standard output; the text ends with a line end.
    pub fn render(&self) -> String {
        self.render_for(Screen::of_stdout())
    }

    fn render_for(&self, screen: Screen) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| cell.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        if let Some(columns) = screen.columns.filter(|_| !self.whole) {
            self.fit(&mut widths, columns);
        }
        let mut text = String::new();
        let head = |_: &str, _: &str| screen.colours.then_some(Style::Bold);
        let style = |head: &str, cell: &str| if screen.colours { (self.style)(head, cell) } else { None };
        self.push_line(&mut text, &widths, self.head.iter().copied(), head);
        for row in &self.rows {
            self.push_line(&mut text, &widths, row.iter().map(String::as_str), style);
        }
        text
    }

    /// Takes from the widest columns until a line fits, or nothing can be taken any more.
    fn fit(&self, widths: &mut [usize], columns: usize) {
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        while total(widths) > columns {
            let widest = widths
                .iter_mut()
                .zip(&self.head)
                .filter(|(width, head)| **width > head.width().max(CUT_WIDTH_MIN))
                .max_by_key(|(width, _)| **width);
            let Some((width, _)) = widest else { return };
            *width -= 1;
        }
    }

    fn push_line<'a>(
        &self,
        text: &mut String,
        widths: &[usize],
        cells: impl Iterator<Item = &'a str>,
        style: impl Fn(&str, &str) -> Option<Style>,
    ) {
        let mut gap = 0;
        for ((cell, width), head) in cells.zip(widths).zip(&self.head) {
            let shown = if cell.width() > *width { truncated(cell, *width) } else { cell.to_owned() };
            let padding = width - shown.width().min(*width) + GAP;
            if !shown.is_empty() {
                text.extend(std::iter::repeat_n(' ', gap));
                gap = 0;
                match style(head, cell) {
                    Some(style) => text.push_str(&style.paint(&shown)),
                    None => text.push_str(&shown),
                }
            }
            gap += padding;
        }
        text.push('\n');
    }
}

/// Between columns.
const GAP: usize = 2;

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
    fn on_a_terminal_the_widest_columns_are_cut_until_the_line_fits() {
        let mut table = Table::new(&["ID", "NAME", "COMMAND"]);
        table.row([
            "0123456789ab".to_owned(),
            "web".to_owned(),
            "a very long command that goes on and on".to_owned(),
        ]);
        let narrow = Screen { columns: Some(40), colours: false };
        assert_eq!(
            table.render_for(narrow),
            "ID            NAME  COMMAND\n0123456789ab  web   a very long command…\n"
        );
        let tiny = Screen { columns: Some(5), colours: false };
        assert!(
            table.render_for(tiny).contains("0123456789ab  web   a very long…"),
            "{}",
            table.render_for(tiny)
        );
        assert!(table.whole(true).render_for(narrow).contains("goes on and on"));
    }

    #[test]
    fn on_a_terminal_cells_have_their_style_and_stay_in_their_columns() {
        let mut table =
            Table::new(&["NAME", "STATUS"]).styled(|head, _| (head == "STATUS").then_some(Style::Red));
        table.row(["web".to_owned(), "failed".to_owned()]);
        table.row(["db".to_owned(), String::new()]);
        let colours = Screen { columns: None, colours: true };
        assert_eq!(
            table.render_for(colours),
            "\u{1b}[1mNAME\u{1b}[0m  \u{1b}[1mSTATUS\u{1b}[0m\nweb   \u{1b}[31mfailed\u{1b}[0m\ndb\n"
        );
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
