//! What a terminal shows, as SVG: text that can be read and searched, in the fonts of whoever looks at it.

use std::fmt::Write as _;

use vt100::{Cell, Color, Screen};

const CELL_WIDTH: f64 = 8.4;
const LINE_HEIGHT: u16 = 18;
const MARGIN: u16 = 14;
/// From the top of a line to its base line.
const ASCENT: u16 = 13;
const BACKGROUND: &str = "#1b1d23";
const FOREGROUND: &str = "#d7dae0";
/// The sixteen colours, which every terminal has in its own way.
const PALETTE: [&str; 16] = [
    "#3b404b", "#e06c75", "#8cc570", "#e0b062", "#5fa8e8", "#c083d8", "#56b6c2", "#d7dae0", "#6b7280",
    "#f08a92", "#a5d98a", "#f0c67e", "#80bdf2", "#d3a1e8", "#7accd6", "#ffffff",
];

/// How text is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Style {
    colour: String,
    background: Option<String>,
    bold: bool,
    dim: bool,
}

/// The screen down to its last line with something on it.
pub fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let is_empty = |row: u16| (0..columns).all(|column| text_of(screen.cell(row, column)).trim().is_empty());
    let rows = (0..rows).rev().find(|row| !is_empty(*row)).map_or(1, |last| last + 1);
    let width = f64::from(columns) * CELL_WIDTH + f64::from(2 * MARGIN);
    let height = rows * LINE_HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" width=\"{width:.0}\" height=\"{height}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"14\" \
         xml:space=\"preserve\">\n"
    );
    for row in 0..rows {
        draw_row(&mut svg, screen, row, columns);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// What is drawn alike is one text.
fn draw_row(svg: &mut String, screen: &Screen, row: u16, columns: u16) {
    let mut column = 0;
    while column < columns {
        let style = style_of(screen.cell(row, column));
        let (first, mut text) = (column, String::new());
        while column < columns && style_of(screen.cell(row, column)) == style {
            text.push_str(text_of(screen.cell(row, column)));
            column += 1;
        }
        draw_text(svg, row, (first, column), &text, &style);
    }
}

fn draw_text(svg: &mut String, row: u16, (first, end): (u16, u16), text: &str, style: &Style) {
    let x = |column: u16| f64::from(MARGIN) + f64::from(column) * CELL_WIDTH;
    let top = MARGIN + row * LINE_HEIGHT;
    if let Some(background) = &style.background {
        let width = x(end) - x(first);
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{LINE_HEIGHT}\" fill=\"{background}\"/>",
            x(first)
        );
    }
    let shown = text.trim_end();
    let before = shown.chars().take_while(|letter| *letter == ' ').count();
    let shown = &shown[before..];
    if shown.is_empty() {
        return;
    }
    let first = first + u16::try_from(before).unwrap_or(0);
    let width = shown.chars().count() as f64 * CELL_WIDTH;
    let mut attributes = String::new();
    if style.bold {
        attributes.push_str(" font-weight=\"bold\"");
    }
    if style.dim {
        attributes.push_str(" opacity=\"0.6\"");
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" textLength=\"{width:.1}\" fill=\"{}\"{attributes}>{}</text>",
        x(first),
        top + ASCENT,
        style.colour,
        escaped(shown)
    );
}

fn text_of(cell: Option<&Cell>) -> &str {
    match cell {
        Some(cell) if cell.is_wide_continuation() => "",
        Some(cell) if cell.has_contents() => cell.contents(),
        _ => " ",
    }
}

fn style_of(cell: Option<&Cell>) -> Style {
    let Some(cell) = cell else {
        return Style { colour: FOREGROUND.to_owned(), background: None, bold: false, dim: false };
    };
    let (foreground, background) = (colour(cell.fgcolor()), colour(cell.bgcolor()));
    let (foreground, background) = if cell.inverse() {
        (Some(background.unwrap_or(BACKGROUND.to_owned())), Some(foreground.unwrap_or(FOREGROUND.to_owned())))
    } else {
        (foreground, background)
    };
    Style {
        colour: foreground.unwrap_or_else(|| FOREGROUND.to_owned()),
        background,
        bold: cell.bold(),
        dim: cell.dim(),
    }
}

/// `None` is the terminal's own.
fn colour(colour: Color) -> Option<String> {
    match colour {
        Color::Default => None,
        Color::Idx(index) => Some(match index {
            0..16 => PALETTE[usize::from(index)].to_owned(),
            16..232 => {
                // A cube of six by six by six. Source: xterm, 256colres.
                let level = |part: u8| if part == 0 { 0 } else { 55 + 40 * part };
                let cube = index - 16;
                hex(level(cube / 36), level(cube / 6 % 6), level(cube % 6))
            }
            232.. => {
                let grey = 8 + 10 * (index - 232);
                hex(grey, grey, grey)
            }
        }),
        Color::Rgb(red, green, blue) => Some(hex(red, green, blue)),
    }
}

fn hex(red: u8, green: u8, blue: u8) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_as_it_is() {
        let size = |cells: u16| cells.try_into().expect("it is not zero");
        let mut parser = vt100::Parser::new(size(5), size(20), 0);
        parser.process(b"a \x1b[1;32mb<c\x1b[0m\r\n  \x1b[48;5;231mx\x1b[0m\r\n");
        let svg = svg(parser.screen());
        assert!(
            svg.contains(&format!("fill=\"{}\" font-weight=\"bold\">b&lt;c</text>", PALETTE[2])),
            "{svg}"
        );
        assert!(svg.contains("fill=\"#ffffff\"/>"), "{svg}");
        assert_eq!(svg.matches("<text ").count(), 3, "{svg}");
        assert!(svg.contains("height=\"64\""), "two lines and the margins: {svg}");
    }
}
