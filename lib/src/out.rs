// SPDX-License-Identifier: Apache-2.0 OR MIT
//! stdout: rows as a table or as JSON lines, buffered, flushed per batch.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Alignment;
use tabled::settings::Padding;
use tabled::settings::Style;
use tabled::settings::object::Columns as TableColumns;
use unicode_width::UnicodeWidthStr as _;

use crate::Error;
use crate::cgroup_paths::Cgroups;
use crate::escape::escape_into;
use crate::json;
use crate::json::JsonRow;
use crate::metrics::Exporter;
use crate::options::Common;
use crate::options::Timestamps;
use crate::record::TaskRecord;
use crate::row::Column;
use crate::row::Comm;
use crate::row::Kind;
use crate::row::Pid;
use crate::row::Row;
use crate::row::Task;
use crate::row::Uid;
use crate::row::Value;
use crate::row::known;
use crate::sink::Sink;
use crate::time::Clock;
use crate::time::Wall;

/// Where a tool's data goes, and nothing else: banners and warnings belong on stderr.
pub struct Out {
    pub(crate) sink: Sink,
    json: bool,
    csv: bool,
    no_header: bool,
    timestamps: Option<Timestamps>,
    clock: Clock,
    line: String,
    printed: u64,
    filtered: u64,
    unkept: u64,
    failure: Option<Error>,
    pub(crate) exporter: Option<Exporter>,
    pub(crate) is_due: bool,
    found: u64,
    /// The columns that were asked for, of those that are not always shown.
    asked: Vec<Column>,
    /// Columns that are wider than their fields say.
    widened: Vec<(&'static str, usize)>,
    layout: Layout,
    cgroups: Option<Cgroups>,
}

/// The columns of the table that is printed now: of which row type's fields, and the place and width of each.
#[derive(Debug, Default)]
struct Layout {
    fields: usize,
    columns: Vec<(usize, usize)>,
}

impl Out {
    pub(crate) fn new(tool: &'static str, common: &Common, clock: Clock) -> Result<Self, Error> {
        let file = match &common.output {
            Some(path) => new_file(path)?,
            None => File::from(io::stdout().as_fd().try_clone_to_owned().map_err(Error::output)?),
        };
        Ok(Self {
            sink: Sink::new(tool, file),
            json: common.json,
            csv: false,
            no_header: common.no_header,
            timestamps: common.timestamps,
            clock,
            line: String::new(),
            printed: 0,
            filtered: 0,
            unkept: 0,
            failure: None,
            exporter: None,
            is_due: true,
            found: 0,
            asked: Vec::new(),
            widened: Vec::new(),
            layout: Layout::default(),
            cgroups: None,
        })
    }

    /// Export metrics, if somebody asked for some: what the kernel has counted up to now.
    pub fn export(&mut self, export: impl FnOnce(&mut Exporter)) {
        self.exporter.as_mut().map(export).unwrap_or_default();
    }

    /// Whether an interval has ended, so that a summary is to be printed: without an interval, metrics are exported
    /// more often than that.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// Whether JSON is asked for.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Print rows as comma-separated values from now on: the fields of JSON, quoted as in RFC 4180.
    pub(crate) fn set_csv(&mut self) {
        self.csv = true;
    }

    /// What an event tells of a task.
    pub fn task(&mut self, task: impl Into<TaskRecord>) -> Task {
        let TaskRecord { time_ns, cgroup, tgid, tid, uid, comm } = task.into();
        Task {
            time: self.clock.wall(time_ns),
            pid: Pid(tgid),
            tid: Pid(tid),
            uid: Uid(uid),
            comm: Comm(comm),
            cgroup: self.cgroups.as_mut().and_then(|cgroups| known(cgroups.path(cgroup))),
        }
    }

    pub(crate) fn set_cgroups(&mut self, cgroups: Cgroups) {
        self.cgroups = Some(cgroups);
    }

    pub(crate) fn clock_mut(&mut self) -> &mut Clock {
        &mut self.clock
    }

    /// Show this column too.
    pub(crate) fn show(&mut self, column: Column) {
        self.asked.push(column);
        self.layout = Layout::default();
    }

    /// Make the columns with these titles this wide.
    pub(crate) fn widen(&mut self, titles: &[&'static str], width: usize) {
        self.widened.extend(titles.iter().map(|title| (*title, width)));
        self.layout = Layout::default();
    }

    /// Lay the table of this row type out, unless it is.
    fn lay_out<R: Row>(&mut self) {
        let fields = R::FIELDS.as_ptr().addr();
        if self.layout.fields == fields {
            return;
        }
        let shown = R::TABLE.iter().filter(|column| {
            !column.is_optional || self.asked.iter().any(|Column(title)| *title == R::FIELDS[column.at].title)
        });
        let width = |at: usize| {
            let field = &R::FIELDS[at];
            let wide = self.widened.iter().find(|(title, _)| *title == field.title);
            match (field.kind, self.timestamps) {
                (Kind::Time, Some(Timestamps::Rfc3339)) => 30,
                (Kind::Time, Some(Timestamps::Elapsed)) => 12,
                _ => wide.map_or(field.width, |(_, width)| *width),
            }
        };
        self.layout = Layout { fields, columns: shown.map(|column| (column.at, width(column.at))).collect() };
    }

    /// Print the table's header, unless it is not wanted.
    pub(crate) fn header<R: Row>(&mut self) -> Result<(), Error> {
        if self.json || self.no_header || R::TABLE.is_empty() {
            return Ok(());
        }
        self.line.clear();
        if self.csv {
            let keys: Vec<&str> =
                R::FIELDS.iter().map(|field| field.key).filter(|key| !key.is_empty()).collect();
            self.line.push_str(&keys.join(","));
            return self.end_line(0);
        }
        self.lay_out::<R>();
        for (i, (at, width)) in self.layout.columns.iter().enumerate() {
            let start = self.line.len();
            self.line.push_str(R::FIELDS[*at].title);
            if i + 1 < self.layout.columns.len() {
                pad(&mut self.line, start, *width);
            }
        }
        self.end_line(0)
    }

    /// Count an event that user space filters out.
    pub fn filtered(&mut self) {
        self.filtered += 1;
    }

    /// Count an event that no program counts: one that user space finds in a map at the end.
    pub fn found(&mut self) {
        self.found += 1;
    }

    /// Count events that found no room in what is kept for a summary.
    pub fn unkept(&mut self, events: u64) {
        self.unkept = self.unkept.saturating_add(events);
    }

    /// Rows written, events filtered out, and events found; once all is flushed.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        (self.printed.saturating_sub(self.sink.unwritten_rows()), self.filtered, self.found)
    }

    /// Let the tool fail once it has told all that it has to tell.
    pub(crate) fn fail_at_end(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
    }

    pub(crate) fn take_failure(&mut self) -> Result<(), Error> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Events for which a summary has no room.
    pub(crate) fn count_unkept(&self) -> u64 {
        self.unkept
    }

    /// Print one row.
    pub fn row<R: Row>(&mut self, row: &R) -> Result<(), Error> {
        self.printed += 1;
        if self.json {
            return self.json_line(1, &JsonRow(row));
        }
        self.line.clear();
        if self.csv {
            return self.csv_row(row);
        }
        self.lay_out::<R>();
        let columns = std::mem::take(&mut self.layout.columns);
        for (i, (at, width)) in columns.iter().enumerate() {
            let start = self.line.len();
            self.cell(row.value(*at));
            // Blanks at the end of a line are the value's own.
            if i + 1 < columns.len() {
                pad(&mut self.line, start, *width);
            }
        }
        self.layout.columns = columns;
        self.end_line(1)
    }

    fn csv_row<R: Row>(&mut self, row: &R) -> Result<(), Error> {
        let in_json = R::FIELDS.iter().enumerate().filter(|(_, field)| !field.key.is_empty());
        for (i, (at, _)) in in_json.enumerate() {
            if i > 0 {
                self.line.push(',');
            }
            let start = self.line.len();
            match row.value(at) {
                Value::Null => (),
                Value::Time(time) => self.line.push_str(&time.rfc3339()),
                value => self.cell(value),
            }
            // A line break can't be in it: it was escaped.
            if self.line[start..].contains(['"', ',']) {
                let quoted = self.line.split_off(start).replace('"', "\"\"");
                self.line.push_str(&format!("\"{quoted}\""));
            }
        }
        self.end_line(1)
    }

    /// Print rows that are all there as a table as wide as they need, or as JSON.
    pub fn table<R: Row>(&mut self, rows: &[R]) -> Result<(), Error> {
        if self.json {
            return rows.iter().try_for_each(|row| self.row(row));
        }
        let text = self.table_text(rows);
        let titles = usize::from(!self.no_header);
        for (n, line) in text.split_inclusive('\n').enumerate() {
            self.put(u32::from(n >= titles), line)?;
        }
        Ok(())
    }

    /// The lines of such a table, whose rows count as printed.
    pub(crate) fn table_text<R: Row>(&mut self, rows: &[R]) -> String {
        self.printed += rows.len() as u64;
        self.lay_out::<R>();
        let columns = std::mem::take(&mut self.layout.columns);
        let mut cells = Vec::with_capacity(rows.len() + 1);
        if !self.no_header {
            cells.push(columns.iter().map(|(at, _)| R::FIELDS[*at].title.to_string()).collect());
        }
        for row in rows {
            let mut line = Vec::with_capacity(columns.len());
            for (at, _) in &columns {
                self.line.clear();
                self.cell(row.value(*at));
                line.push(std::mem::take(&mut self.line));
            }
            cells.push(line);
        }
        self.layout.columns = columns;
        plain_table(cells)
    }

    /// Print text as it is: it may move a terminal's cursor, so nothing in it comes from outside unescaped.
    pub(crate) fn raw(&mut self, text: &str) -> Result<(), Error> {
        self.put(0, text)
    }

    fn put(&mut self, rows: u32, text: &str) -> Result<(), Error> {
        self.sink.line(rows, |to| to.write_all(text.as_bytes()))
    }

    /// Whether tables have a header.
    pub(crate) fn has_header(&self) -> bool {
        !self.no_header
    }

    /// Print a row type that has no table, as JSON.
    pub fn json_row<R: Row>(&mut self, row: &R) -> Result<(), Error> {
        self.object(&JsonRow(row))
    }

    pub(crate) fn object(&mut self, value: &impl Serialize) -> Result<(), Error> {
        self.json_line(0, value)
    }

    fn json_line(&mut self, rows: u32, value: &impl Serialize) -> Result<(), Error> {
        self.sink.line(rows, |to| json::write_line(to, value))
    }

    /// Print text that the tool made, with a newline.
    pub fn text(&mut self, text: &str) -> Result<(), Error> {
        self.line.clear();
        self.line.push_str(text);
        self.end_line(0)
    }

    /// Print the local time, or what `--timestamps` asks for, above an interval's output.
    pub fn interval_time(&mut self) -> Result<(), Error> {
        match self.now() {
            Some(now) if !self.json => self.text(&now),
            _ => Ok(()),
        }
    }

    /// The time as `--timestamps` asks for it; nothing if it does not.
    pub(crate) fn now(&mut self) -> Option<String> {
        self.timestamps?;
        self.line.clear();
        self.cell(Value::Time(Wall::now()));
        Some(std::mem::take(&mut self.line))
    }

    /// The local time.
    pub(crate) fn time_of_day(&self) -> String {
        Wall::now().time_of_day(self.clock.zone())
    }

    /// Hand everything over to the reader.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.sink.flush()
    }

    fn end_line(&mut self, rows: u32) -> Result<(), Error> {
        self.line.push('\n');
        self.sink.line(rows, |to| to.write_all(self.line.as_bytes()))
    }

    fn cell(&mut self, value: Value<'_>) {
        use std::fmt::Write as _;
        let line = &mut self.line;
        // Writing to a String can't fail.
        _ = match value {
            Value::Null => write!(line, "-"),
            Value::Bool(v) => write!(line, "{}", if v { "yes" } else { "no" }),
            Value::Int(v) => write!(line, "{v}"),
            Value::Uint(v) => write!(line, "{v}"),
            Value::Float(v, decimals) => write!(line, "{v:.decimals$}"),
            Value::Text(v) => write!(line, "{v}"),
            Value::String(v) => write!(line, "{v}"),
            Value::Json(v) => write!(line, "{v}"),
            Value::Bytes(v) => {
                escape_into(line, v);
                Ok(())
            }
            Value::Owned(v) => {
                escape_into(line, &v);
                Ok(())
            }
            Value::List(list) => {
                for (i, v) in list.iter().enumerate() {
                    if i > 0 {
                        line.push(' ');
                    }
                    escape_into(line, v);
                }
                Ok(())
            }
            Value::Time(v) => match self.timestamps {
                Some(Timestamps::Rfc3339) => write!(line, "{}", v.rfc3339()),
                Some(Timestamps::Elapsed) => {
                    let ns = (v.0 - self.clock.started().0).max(0);
                    write!(line, "{}.{:06}", ns / 1_000_000_000, ns / 1_000 % 1_000_000)
                }
                _ => write!(line, "{}", v.time_of_day(self.clock.zone())),
            },
        };
    }
}

/// A file of one's own, which was not there before.
fn new_file(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Error::System { what: format!("--output {}", path.display()), error })
}

/// Print lines that are known without tracing.
///
/// # Errors
/// stdout can't be written.
pub fn lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    let mut writer = BufWriter::new(io::stdout().lock());
    lines.into_iter().try_for_each(|line| writeln!(writer, "{line}")).map_err(Error::output)?;
    writer.flush().map_err(Error::output)
}

/// Cells as lines, each column as wide as its widest cell.
pub fn plain_table(cells: Vec<Vec<String>>) -> String {
    if cells.is_empty() {
        return String::new();
    }
    let mut table = Builder::from_iter(cells).build();
    table.with(Style::empty());
    table.modify(TableColumns::new(..), Alignment::left());
    table.modify(TableColumns::new(..), Padding::new(0, 2, 0, 0));
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Append blanks until the column that began at `start` is `width` wide.
fn pad(line: &mut String, start: usize, width: usize) {
    // One blank at least keeps two columns apart when a value is too wide.
    let used = line[start..].width();
    line.extend(std::iter::repeat_n(' ', width.saturating_sub(used).max(1)));
}
