// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tables of a tool that shows again and again who is at the top: refreshed in place on a terminal, one below
//! the other elsewhere.
//!
//! A terminal is left as it was at every moment: no mode of it is changed, so that a tool that is stopped or killed
//! leaves nothing to be restored, and what was on the screen is moved up, and not erased.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::io::IsTerminal as _;

use procfs::Current as _;
use procfs::LoadAverage;
use terminal_size::Height;
use terminal_size::Width;
use terminal_size::terminal_size_of;
use unicode_width::UnicodeWidthChar as _;

use crate::Error;
use crate::Out;
use crate::options::Common;
use crate::row::Row;

/// How many rows are shown at most, if nothing else is said.
pub const ROWS: usize = 20;

const HOME: &str = "\x1b[H";
const ERASE_LINE_REST: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[m";

/// Where a tool shows a table after each interval.
#[derive(Debug)]
pub struct Screen {
    refresh: bool,
    colour: bool,
    begun: bool,
}

impl Screen {
    /// stdout. Tables are appended if that is asked for, or where it is no terminal that could be refreshed.
    pub fn new(common: &Common, append: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_smart = set("TERM").is_some_and(|term| term != OsStr::new("dumb"));
        let refresh = !append && !common.json && is_smart && io::stdout().is_terminal();
        Self { refresh, colour: refresh && set("NO_COLOR").is_none(), begun: false }
    }

    /// Show the rows of an interval, in their order, `most` at most; or print them as JSON.
    ///
    /// # Errors
    /// Those of the output.
    pub fn show<R: Row>(&mut self, out: &mut Out, rows: &[R], most: Option<usize>) -> Result<(), Error> {
        if out.is_json() {
            return out.table(&rows[..rows.len().min(most.unwrap_or(usize::MAX))]);
        }
        let rows = &rows[..rows.len().min(most.unwrap_or(ROWS))];
        let head = head(out);
        if !self.refresh {
            // The time parts one interval from the next.
            let blank = if self.begun { "\n" } else { "" };
            self.begun = true;
            if let Some(head) = head {
                out.text(&format!("{blank}{head}"))?;
            }
            return out.table(rows);
        }
        let (width, height) = size();
        let text = head.iter().map(|head| format!("{head}\n")).collect::<String>() + &out.table_text(rows);
        let titles = usize::from(head.is_some());
        // The last line is left for the cursor, and for what the terminal shows of Ctrl-C.
        let lines = text.lines().take(height.saturating_sub(1));
        let mut screen = if self.begun { String::new() } else { "\n".repeat(height) };
        self.begun = true;
        screen.push_str(HOME);
        for (n, line) in lines.enumerate() {
            let line = fitting(line, width);
            let bold = self.colour && n == titles && out.has_header();
            let (start, end) = if bold { (BOLD, PLAIN) } else { ("", "") };
            // Writing to a String can't fail.
            _ = writeln!(screen, "{start}{line}{end}{ERASE_LINE_REST}");
        }
        screen.push_str(ERASE_BELOW);
        out.raw(&screen)
    }
}

/// What stands above a table: the time, and how busy the host is.
fn head(out: &mut Out) -> Option<String> {
    if !out.has_header() {
        return out.now();
    }
    let time = out.now().unwrap_or_else(|| out.time_of_day());
    // Where /proc does not tell, the time is enough.
    let load = LoadAverage::current().map_or(String::new(), |load| {
        format!("  loadavg: {:.2} {:.2} {:.2} {}/{}", load.one, load.five, load.fifteen, load.cur, load.max)
    });
    Some(time + &load)
}

/// Columns and lines of the terminal.
fn size() -> (usize, usize) {
    // One that does not know has no size: that of the first ones is as good as any.
    let (Width(width), Height(height)) =
        terminal_size_of(io::stdout()).filter(|(w, h)| w.0 > 0 && h.0 > 0).unwrap_or((Width(80), Height(24)));
    (width.into(), height.into())
}

/// As much of a line as the terminal has columns: a line that wraps would move all below it.
fn fitting(line: &str, width: usize) -> &str {
    let mut used = 0;
    let end = line.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or(0);
        used > width
    });
    end.map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_by_what_is_seen_of_them() {
        assert_eq!(fitting("abcdef", 6), "abcdef");
        assert_eq!(fitting("abcdef", 5), "abcde");
        assert_eq!(fitting("a\u{4e16}\u{754c}", 4), "a\u{4e16}");
        assert_eq!(fitting("", 0), "");
        assert_eq!(fitting("a", 0), "");
    }
}
