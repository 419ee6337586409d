//! Pictures of figures: a panel for each, with a bar for each of those that are compared. The bars of a panel begin at
//! nought and share a scale; panels do not.

use std::fmt::{self, Write as _};

const MARGIN: u32 = 20;
const BARS: u32 = 460;
/// Room for what is written behind the longest bar.
const SHOWN: u32 = 140;
const BAR: u32 = 16;
const PANEL_TITLE: u32 = 28;
const PANEL_GAP: u32 = 12;
const HEAD: u32 = 48;
/// About as wide as a letter.
const LETTER: u32 = 7;

/// Some bars under a title.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What is compared, and whether more or less of it is better.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What stands before it.
    pub label: String,
    /// How long it is, on the scale of its panel.
    pub value: f64,
    /// What stands behind it: the value for people.
    pub shown: String,
    /// A color, as SVG writes it.
    pub color: &'static str,
}

/// A picture as SVG.
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(title, panels, &mut text);
    text
}

fn write(title: &str, panels: &[Panel], text: &mut String) -> fmt::Result {
    let bars = || panels.iter().flat_map(|panel| &panel.bars);
    let longest = bars().map(|bar| bar.label.chars().count() as u32).max().unwrap_or(0);
    let left = MARGIN + longest * LETTER + 8;
    let width = left + BARS + SHOWN;
    let height =
        HEAD + panels.len() as u32 * (PANEL_TITLE + PANEL_GAP) + bars().count() as u32 * BAR + MARGIN;
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
    )?;
    writeln!(text, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>")?;
    let title = escape(title);
    writeln!(text, "<text x=\"{MARGIN}\" y=\"30\" font-size=\"18\" font-weight=\"bold\">{title}</text>")?;
    let mut y = HEAD;
    for panel in panels {
        let (title, below) = (escape(&panel.title), y + PANEL_TITLE - 10);
        writeln!(text, "<text x=\"{MARGIN}\" y=\"{below}\" font-weight=\"bold\">{title}</text>")?;
        y += PANEL_TITLE;
        let largest = panel.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        for bar in &panel.bars {
            let length = (bar.value / largest * f64::from(BARS)).max(1.0);
            let (middle, color) = (y + BAR - 4, bar.color);
            let (label, shown) = (escape(&bar.label), escape(&bar.shown));
            writeln!(text, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>", left - 8)?;
            let (top, thick) = (y + 1, BAR - 3);
            writeln!(
                text,
                "<rect x=\"{left}\" y=\"{top}\" width=\"{length:.1}\" height=\"{thick}\" fill=\"{color}\"/>"
            )?;
            let behind = f64::from(left) + length + 6.0;
            writeln!(text, "<text x=\"{behind:.1}\" y=\"{middle}\">{shown}</text>")?;
            y += BAR;
        }
        y += PANEL_GAP;
    }
    writeln!(text, "</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_bar_for_each_value() {
        let bar = |label: &str, value: f64| Bar {
            label: label.to_owned(),
            value,
            shown: format!("{value} k/s"),
            color: "#c0392b",
        };
        let panel = Panel { title: "1 < 2".to_owned(), bars: vec![bar("one", 2000.0), bar("two", 500.0)] };
        let text = svg("a & b", &[panel]);
        assert_eq!(text.matches("<rect ").count(), 3, "{text}");
        assert!(text.contains("2000 k/s") && text.contains("500 k/s"), "{text}");
        assert!(text.contains("width=\"460.0\"") && text.contains("width=\"115.0\""), "{text}");
        assert!(text.contains("a &amp; b") && text.contains("1 &lt; 2"), "{text}");
    }
}
