// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a tool prints: one type per kind of row gives the table, the JSON object and its schema.

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

impl<'a> Value<'a> {
    /// Bytes from outside, or null where there are none, as they are not known.
    pub fn known(bytes: &'a [u8]) -> Self {
        if bytes.is_empty() { Self::Null } else { Self::Bytes(bytes) }
    }
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

/// One field of a row type `R`: a key in JSON, a column in a table, or both.
pub struct Field<R> {
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    pub(crate) help: &'static str,
    pub(crate) title: &'static str,
    pub(crate) width: usize,
    pub(crate) get: for<'a> fn(&'a R) -> Value<'a>,
}

impl<R> Field<R> {
    /// A field with a key in JSON and no column.
    pub const fn new(
        key: &'static str,
        kind: Kind,
        help: &'static str,
        get: for<'a> fn(&'a R) -> Value<'a>,
    ) -> Self {
        Self { key, kind, nullable: false, help, title: "", width: 0, get }
    }

    /// The cgroup of tools with [`crate::cli::CgroupColumn`].
    pub const fn cgroup(get: for<'a> fn(&'a R) -> Value<'a>) -> Self {
        Self::new("cgroup", Kind::Bytes, "Path of the cgroup (version 2)", get)
            .nullable()
            .column("CGROUP", 30)
    }

    /// A field that stands in tables alone; JSON has the same facts in other fields.
    pub const fn table_only(
        title: &'static str,
        width: usize,
        help: &'static str,
        get: for<'a> fn(&'a R) -> Value<'a>,
    ) -> Self {
        Self { key: "", kind: Kind::Text, nullable: false, help, title, width, get }
    }

    /// The same field, also as a column: `width` characters, 0 for the last one.
    pub const fn column(mut self, title: &'static str, width: usize) -> Self {
        self.title = title;
        self.width = width;
        self
    }

    /// The same field, which may be null in JSON.
    pub const fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }
}

/// A kind of row.
pub trait Row: Sized + 'static {
    /// The `type` of the JSON object.
    const TYPE: &'static str;
    /// The fields, in the order of the columns.
    const FIELDS: &'static [Field<Self>];
}

/// What a row type prints, without the type: for schemas and documents.
#[derive(Clone, Debug)]
pub struct FieldInfo {
    /// The key in JSON, or nothing.
    pub key: &'static str,
    /// What it holds in JSON.
    pub kind: Kind,
    /// Whether it may be null in JSON.
    pub nullable: bool,
    /// The column's title, or nothing.
    pub title: &'static str,
    /// What it means, with its unit.
    pub help: &'static str,
}

/// A row type's name and fields.
#[derive(Clone, Debug)]
pub struct RowInfo {
    /// The `type` of the JSON object.
    pub name: &'static str,
    /// Its fields.
    pub fields: Vec<FieldInfo>,
}

impl RowInfo {
    /// Of the row type `R`.
    pub fn of<R: Row>() -> Self {
        let info = |f: &Field<R>| FieldInfo {
            key: f.key,
            kind: f.kind,
            nullable: f.nullable,
            title: f.title,
            help: f.help,
        };
        Self { name: R::TYPE, fields: R::FIELDS.iter().map(info).collect() }
    }
}
