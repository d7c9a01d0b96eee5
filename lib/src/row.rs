// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a tool prints: of one struct for each kind of row, `#[derive(Row)]` makes the table, the JSON object and its
//! schema. A field's name is its key in JSON, its doc comment the help, and its type one that is a [`Cell`].
//!
//! ```ignore
//! /// An open that has ended.
//! #[derive(Row)]
//! #[row(type = "event", table = "TIME? PID COMM FLAGS? PATH")]
//! struct Open<'a> {
//!     /// When it ended
//!     #[row(column = "TIME", width = 9)]
//!     time: Wall,
//!     /// How long it took, in microseconds
//!     #[row(also(column = "LAT(ms)", width = 9, help = "How long it took", value = Self::latency_shown))]
//!     latency_us: f64,
//!     ...
//! }
//! ```
//!
//! Of the struct: `type`, that of the JSON object, without which it is a part of rows; and `table`, the columns in their
//! order. One with `?` is shown if it is asked for: there is a constant for it, as `Open::FLAGS`, and a title that no
//! field has does not compile.
//!
//! Of a field: `column`, its title; `width`, in characters, 0 for the last one, where its type does not know better;
//! `decimals`, of a number; `value`, what makes the value in place of the field; `also(...)`, a column behind it whose
//! facts JSON has in other fields; `skip`; and `flatten`, for a field of which the fields are the row's: with
//! `helps("key" = "...")` and `titles("OLD" = "NEW")` these are called otherwise here.

use std::num::NonZero;

pub use kscope_derive::Row;

use crate::escape::c_bytes;
use crate::names;
use crate::time::Wall;

/// One value of a row.
#[derive(Debug)]
pub enum Value<'a> {
    /// Not known, or not applicable.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number from 0.
    Uint(u64),
    /// A number, printed with the given number of decimals in a table.
    Float(f64, usize),
    /// Text made by the tool itself.
    Text(&'a str),
    /// Text made by the tool itself, for this row.
    String(String),
    /// Bytes from outside: escaped in a table, and lossless in JSON (see `docs/output.md`).
    Bytes(&'a [u8]),
    /// The same, made for this row.
    Owned(Vec<u8>),
    /// Byte strings from outside.
    List(Vec<&'a [u8]>),
    /// Wall-clock time.
    Time(Wall),
    /// Anything deeper, in JSON only.
    Json(serde_json::Value),
}

impl From<u32> for Value<'_> {
    fn from(value: u32) -> Self {
        Self::Uint(value.into())
    }
}

impl From<u64> for Value<'_> {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}

impl From<i32> for Value<'_> {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

/// Text made by the tool itself.
impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

/// Bytes from outside.
impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

/// Nothing is null.
impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// What a field holds in JSON, for the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Float,
    Text,
    Bytes,
    List,
    Time,
    /// An array of objects with numbers.
    Array,
    /// An object with numbers.
    Object,
}

/// One field of a row: a key in JSON, a column in a table, or both.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key in JSON, or nothing.
    pub key: &'static str,
    /// What it holds in JSON.
    pub kind: Kind,
    /// Whether it may be null in JSON.
    pub nullable: bool,
    /// What it means, with its unit.
    pub help: &'static str,
    /// The column's title, or nothing.
    pub title: &'static str,
    /// The column's width in characters, 0 for the last one.
    pub width: usize,
}

/// What has fields: a row, or a part of one.
pub trait Fields {
    /// The fields, in the order of JSON.
    const FIELDS: &'static [Field];

    /// The value of the field at this place; null where there is none.
    fn value(&self, at: usize) -> Value<'_>;
}

/// A kind of row.
pub trait Row: Fields {
    /// The `type` of the JSON object.
    const TYPE: &'static str;
    /// The columns of its table, in their order.
    const TABLE: &'static [Shown];
}

/// A column of a table: the place of its field, and whether it is shown only if it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub(crate) at: usize,
    pub(crate) is_optional: bool,
}

/// The title of a column that is shown if it is asked for: `#[derive(Row)]` makes a constant for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column(pub &'static str);

impl Column {
    /// The columns that options of the library ask for, by whatever rows have them.
    pub(crate) const TIME: Self = Self("TIME");
    pub(crate) const UID: Self = Self("UID");
    pub(crate) const CGROUP: Self = Self("CGROUP");
}

/// The kinds of rows that a tool prints: a tuple of them.
pub trait Rows {
    /// Each of them.
    fn infos() -> Vec<RowInfo>;
}

impl<A: Row> Rows for (A,) {
    fn infos() -> Vec<RowInfo> {
        vec![RowInfo::of::<A>()]
    }
}

impl<A: Row, B: Row> Rows for (A, B) {
    fn infos() -> Vec<RowInfo> {
        vec![RowInfo::of::<A>(), RowInfo::of::<B>()]
    }
}

/// A row type's name and fields: for schemas and documents.
#[derive(Clone, Debug)]
pub struct RowInfo {
    /// The `type` of the JSON object.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    table: &'static [Shown],
}

impl RowInfo {
    /// Of the row type `R`.
    pub fn of<R: Row>() -> Self {
        Self { name: R::TYPE, fields: R::FIELDS, table: R::TABLE }
    }

    /// Whether it has this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|field| field.key == key)
    }

    /// Whether its table has this column at all times.
    pub(crate) fn always_shows(&self, Column(title): Column) -> bool {
        let mut always = self.table.iter().filter(|column| !column.is_optional);
        always.any(|column| self.fields[column.at].title == title)
    }
}

/// A type that can be a field of a row.
pub trait Cell {
    /// What it holds in JSON.
    const KIND: Kind;
    /// Whether it may be null.
    const NULLABLE: bool = false;
    /// How wide a column of it is, if nothing else is said.
    const WIDTH: usize = 0;

    /// The value; a number with a fraction has this many decimals in a table.
    fn cell(&self, decimals: usize) -> Value<'_>;
}

macro_rules! uint_cells {
    ($($type:ty),+) => {$(
        impl Cell for $type {
            const KIND: Kind = Kind::Uint;

            fn cell(&self, _: usize) -> Value<'_> {
                Value::Uint(u64::from(*self))
            }
        }
    )+};
}

uint_cells!(u8, u16, u32, u64);

impl Cell for usize {
    const KIND: Kind = Kind::Uint;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Uint(*self as u64)
    }
}

impl Cell for NonZero<u32> {
    const KIND: Kind = Kind::Uint;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Uint(self.get().into())
    }
}

impl Cell for i32 {
    const KIND: Kind = Kind::Int;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Int((*self).into())
    }
}

impl Cell for bool {
    const KIND: Kind = Kind::Bool;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Bool(*self)
    }
}

impl Cell for f64 {
    const KIND: Kind = Kind::Float;

    fn cell(&self, decimals: usize) -> Value<'_> {
        Value::Float(*self, decimals)
    }
}

/// Text that the tool made.
impl Cell for &str {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Text(self)
    }
}

/// Text that the tool made.
impl Cell for String {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Text(self)
    }
}

/// Bytes from outside.
impl Cell for &[u8] {
    const KIND: Kind = Kind::Bytes;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Bytes(self)
    }
}

/// Bytes from outside.
impl Cell for Vec<u8> {
    const KIND: Kind = Kind::Bytes;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Bytes(self)
    }
}

/// Byte strings from outside.
impl Cell for Vec<&[u8]> {
    const KIND: Kind = Kind::List;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::List(self.clone())
    }
}

impl Cell for Wall {
    const KIND: Kind = Kind::Time;
    const WIDTH: usize = 9;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Time(*self)
    }
}

/// Nothing is null.
impl<T: Cell> Cell for Option<T> {
    const KIND: Kind = T::KIND;
    const NULLABLE: bool = true;
    const WIDTH: usize = T::WIDTH;

    fn cell(&self, decimals: usize) -> Value<'_> {
        self.as_ref().map_or(Value::Null, |value| value.cell(decimals))
    }
}

/// The number of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(pub u32);

impl Cell for Pid {
    const KIND: Kind = Kind::Uint;
    const WIDTH: usize = 8;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Uint(self.0.into())
    }
}

/// The number of a thread.
pub type Tid = Pid;

/// The number of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uid(pub u32);

impl Cell for Uid {
    const KIND: Kind = Kind::Uint;
    const WIDTH: usize = 7;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Uint(self.0.into())
    }
}

/// The name of a thread, as the kernel keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comm(pub [u8; 16]);

impl Cell for Comm {
    const KIND: Kind = Kind::Bytes;
    const WIDTH: usize = 17;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Bytes(c_bytes(&self.0))
    }
}

/// An error number of the kernel's, which is shown by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// That of a result, where it is a negative error number.
    pub fn of(result: impl Into<i64>) -> Option<Self> {
        let result: i64 = result.into();
        (result < 0).then(|| Self(i32::try_from(result.saturating_neg()).unwrap_or(i32::MAX)))
    }
}

impl Cell for Errno {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(names::errno(self.0))
    }
}

/// A signal, which is shown by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub u32);

impl Cell for Signal {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(names::signal(self.0))
    }
}

/// What every event tells of a task (`struct kscope_task` of bpf/record.bpf.h).
#[derive(Clone, Debug)]
pub struct Task {
    /// When.
    pub time: Wall,
    /// Its process.
    pub pid: Pid,
    /// Itself.
    pub tid: Tid,
    /// Its user, if somebody wants to see that.
    pub uid: Uid,
    /// Its name.
    pub comm: Comm,
    /// The path of its cgroup, if that is known and wanted.
    pub cgroup: Option<Vec<u8>>,
}

/// Nanoseconds, which are shown as microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl Cell for Micros {
    const KIND: Kind = Kind::Float;

    fn cell(&self, decimals: usize) -> Value<'_> {
        Value::Float(self.0 as f64 / 1e3, decimals)
    }
}

/// Nanoseconds as milliseconds, for a table.
pub fn millis<'a>(ns: impl Into<Option<u64>>, decimals: usize) -> Value<'a> {
    ns.into().map_or(Value::Null, |ns| Value::Float(ns as f64 / 1e6, decimals))
}

/// Bytes from outside, or null where there are none, as they are not known.
pub fn known(bytes: Vec<u8>) -> Option<Vec<u8>> {
    (!bytes.is_empty()).then_some(bytes)
}

/// The fields of all parts, of which there are `N`. For `#[derive(Row)]`.
pub const fn concat<const N: usize>(parts: &[&[Field]]) -> [Field; N] {
    let mut all = [Field { key: "", kind: Kind::Text, nullable: true, help: "", title: "", width: 0 }; N];
    let (mut part, mut n) = (0, 0);
    while part < parts.len() {
        let mut at = 0;
        while at < parts[part].len() {
            all[n] = parts[part][at];
            (at, n) = (at + 1, n + 1);
        }
        part += 1;
    }
    all
}

/// The same fields with other helps, by key or title, and other titles. For `#[derive(Row)]`.
pub const fn relabelled<const N: usize>(
    fields: &[Field],
    helps: &[(&str, &'static str)],
    titles: &[(&str, &'static str)],
) -> [Field; N] {
    let mut all = concat::<N>(&[fields]);
    let mut n = 0;
    while n < helps.len() {
        let (of, help) = helps[n];
        let at = match place(fields, of, true) {
            Some(at) => at,
            None => place_of_title(fields, of),
        };
        all[at].help = help;
        n += 1;
    }
    n = 0;
    while n < titles.len() {
        all[place_of_title(fields, titles[n].0)].title = titles[n].1;
        n += 1;
    }
    all
}

/// Where the fields of columns with these titles are. For `#[derive(Row)]`.
pub const fn table<const N: usize>(fields: &[Field], titles: [(&str, bool); N]) -> [Shown; N] {
    let mut columns = [Shown { at: 0, is_optional: false }; N];
    let mut n = 0;
    while n < N {
        columns[n] = Shown { at: place_of_title(fields, titles[n].0), is_optional: titles[n].1 };
        n += 1;
    }
    columns
}

const fn place_of_title(fields: &[Field], title: &str) -> usize {
    match place(fields, title, false) {
        Some(at) => at,
        None => panic!("no field of the row has a column with this title"),
    }
}

const fn place(fields: &[Field], name: &str, is_key: bool) -> Option<usize> {
    let mut at = 0;
    while at < fields.len() {
        let own = if is_key { fields[at].key } else { fields[at].title };
        if is_same(own.as_bytes(), name.as_bytes()) {
            return Some(at);
        }
        at += 1;
    }
    None
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}
