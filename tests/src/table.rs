// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tables, read back.

use crate::Ended;

/// A table: its titles, and its rows by column; the last column, which may hold blanks, takes the rest.
pub struct Table {
    /// The titles.
    pub titles: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// All that a tool printed.
    ///
    /// # Panics
    /// If it failed, wrote to stderr, or printed no such table.
    pub fn of(ended: &Ended) -> Self {
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{ended:?}");
        Self::parse(ended.stdout().lines())
    }

    /// These lines, the header first.
    ///
    /// # Panics
    /// If they are no table.
    pub fn parse<'a>(mut lines: impl Iterator<Item = &'a str>) -> Self {
        let header = lines.next().unwrap_or_default();
        let titles: Vec<String> = header.split_whitespace().map(String::from).collect();
        let last = titles.last().and_then(|title| header.rfind(title.as_str()));
        let last = last.unwrap_or_else(|| panic!("no table header: {header:?}"));
        let row = |line: &str| {
            // A value that is too wide moves what follows it.
            let mut cells = Vec::new();
            let mut rest = line;
            for _ in 1..titles.len() {
                rest = rest.trim_start();
                let (cell, more) = rest.split_once(' ').unwrap_or((rest, ""));
                cells.push(cell.to_string());
                rest = more;
            }
            let used = line.len() - rest.len();
            cells.push(line.get(last.max(used)..).unwrap_or_default().to_string());
            cells
        };
        Self { rows: lines.map(row).collect(), titles }
    }

    /// The cells below this title.
    ///
    /// # Panics
    /// If there is no such title.
    pub fn column(&self, title: &str) -> Vec<&str> {
        let at = self.titles.iter().position(|found| found == title);
        let at = at.unwrap_or_else(|| panic!("no column {title} in {:?}", self.titles));
        self.rows.iter().map(|row| row[at].as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_by_column() {
        let lines =
            ["A    BB  ARGS", "a    b   one  two", "aaaaaaaaaaaa b three", "a    b    four", "a    b"];
        let table = Table::parse(lines.into_iter());
        assert_eq!(table.titles, ["A", "BB", "ARGS"]);
        assert_eq!(table.column("ARGS"), ["one  two", "three", " four", ""]);
        assert_eq!(table.column("BB"), ["b"; 4]);
    }
}
