//! What people read: lines on standard output, and tables. Programs use `--json`.
//!
//! Logs go elsewhere (`tracing`, to standard error). A closed pipe is the reader's choice, never an error of ours.

use std::fmt::Display;
use std::io::Write;

/// Prints a line to standard output.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a line to standard error: progress, when standard error is no terminal.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A table with a heading, columns as wide as their widest cell. Cells that are numbers stand to the right.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        assert_eq!(row.len(), heading.len(), "each row of a table has a cell for each column");
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = vec![line(heading.iter().copied(), &widths)];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str), &widths)));
    lines.join("\n")
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, &width) in cells.zip(widths) {
        if !text.is_empty() {
            text.push_str("  ");
        }
        let numeric = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.');
        let padded = if numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        text.push_str(&padded);
    }
    text.truncate(text.trim_end().len());
    text
}

/// A count with thousands set apart: 200,000.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: reading a table at a glance.
    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let rows = vec![vec!["broker-a".into(), "7".into()], vec!["b".into(), "1,234".into()]];
        assert_eq!(table(&["NAME", "COUNT"], &rows), "NAME      COUNT\nbroker-a      7\nb         1,234");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [0, 12, 999, 1000, 200_000, 1_234_567].map(grouped),
            ["0", "12", "999", "1,000", "200,000", "1,234,567"]
        );
    }
}
