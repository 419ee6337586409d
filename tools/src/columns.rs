//! A table of text: a heading, a rule, rows, columns as wide as their widest cell.

/// Rows of cells that are printed below each other.
///
/// ```
/// use terrace_tools::columns::Columns;
/// let mut table = Columns::new(["name", ">bytes"]);
/// table.row(["log", "12"]);
/// assert_eq!(table.to_string(), "name  bytes\n----  -----\nlog      12\n");
/// ```
#[derive(Debug, Clone)]
pub struct Columns {
    headings: Vec<String>,
    to_the_right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// A table with these headings. A heading that starts with `>` belongs to a column of figures, which are set to
    /// the right.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Columns {
            headings: headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect(),
            to_the_right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. One with fewer cells than there are headings ends early.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether no row was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width_of = |text: &String| text.chars().count();
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.chain([&self.headings[column]]).map(width_of).max().unwrap_or(0)
            })
            .collect();
        let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
        for row in [&self.headings, &rule].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate().take(widths.len()) {
                if column > 0 {
                    line.push_str("  ");
                }
                let padding = " ".repeat(widths[column] - width_of(cell));
                if self.to_the_right[column] {
                    line.push_str(&padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&padding);
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_letters() {
        let mut table = Columns::new(["a", ">b", "c"]);
        table.row(["äöü", "1.00 µs", "x"]);
        table.row(["z", "5 ns"]);
        let expected = "a          b  c\n---  -------  -\näöü  1.00 µs  x\nz       5 ns\n";
        assert_eq!(table.to_string(), expected);
    }
}
