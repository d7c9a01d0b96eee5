// SPDX-License-Identifier: Apache-2.0 OR MIT
//! JSON lines that are valid, lossless and harmless on a terminal, and their schema.

use std::io;
use std::io::Write;

use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::json;

use crate::escape::is_hostile;
use crate::row::Field;
use crate::row::Kind;
use crate::row::Row;
use crate::row::RowInfo;
use crate::row::Value;

/// The version of the output contract (`docs/output.md`): it grows when a key changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// serde_json's compact form, with terminal controls above ASCII and bidi controls escaped too.
struct Harmless;

impl serde_json::ser::Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| *c > '~' && is_hostile(*c)) {
            w.write_all(&rest.as_bytes()[..at])?;
            write!(w, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        w.write_all(rest.as_bytes())
    }
}

/// Write one object and a newline.
pub(crate) fn write_line<W: Write>(mut w: W, value: &impl Serialize) -> io::Result<()> {
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut w, Harmless))
        .map_err(io::Error::from)?;
    w.write_all(b"\n")
}

/// A row as a JSON object.
pub(crate) struct JsonRow<'a, R>(pub &'a R);

impl<R: Row> Serialize for JsonRow<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", R::TYPE)?;
        for (at, field) in R::FIELDS.iter().enumerate().filter(|(_, field)| !field.key.is_empty()) {
            let key = field.key;
            match self.0.value(at) {
                Value::Null => map.serialize_entry(key, &())?,
                Value::Bool(v) => map.serialize_entry(key, &v)?,
                Value::Int(v) => map.serialize_entry(key, &v)?,
                Value::Uint(v) => map.serialize_entry(key, &v)?,
                Value::Float(v, _) => map.serialize_entry(key, &v)?,
                Value::Text(v) => map.serialize_entry(key, v)?,
                Value::String(v) => map.serialize_entry(key, &v)?,
                Value::Time(v) => map.serialize_entry(key, &v.rfc3339())?,
                Value::Json(v) => map.serialize_entry(key, &v)?,
                Value::Bytes(v) => bytes_entry(&mut map, key, v)?,
                Value::Owned(v) => bytes_entry(&mut map, key, &v)?,
                Value::List(list) => {
                    let texts: Vec<_> = list.iter().map(|v| String::from_utf8_lossy(v)).collect();
                    map.serialize_entry(key, &texts)?;
                    if list.iter().any(|v| str::from_utf8(v).is_err()) {
                        let list: Vec<_> = list.iter().map(|v| hex(v)).collect();
                        map.serialize_entry(&format!("{key}_hex"), &list)?;
                    }
                }
            }
        }
        map.end()
    }
}

/// Text as it is; what is no UTF-8 with replacement characters, and beside it every byte in hexadecimal.
fn bytes_entry<M: SerializeMap>(map: &mut M, key: &'static str, bytes: &[u8]) -> Result<(), M::Error> {
    match str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(key, text),
        Err(_) => {
            map.serialize_entry(key, &String::from_utf8_lossy(bytes))?;
            map.serialize_entry(&format!("{key}_hex"), &hex(bytes))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn field_schema(field: &Field) -> serde_json::Value {
    let mut schema = match field.kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int => json!({"type": "integer"}),
        Kind::Uint => json!({"type": "integer", "minimum": 0}),
        Kind::Float => json!({"type": "number"}),
        Kind::Text | Kind::Bytes => json!({"type": "string"}),
        Kind::Time => json!({"type": "string", "pattern": TIME_PATTERN}),
        Kind::List => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Array => json!({"type": "array", "items": {"type": "object"}}),
        Kind::Object => json!({"type": "object"}),
    };
    schema["description"] = field.help.into();
    if field.nullable {
        schema["type"] = json!([schema["type"].clone(), "null"]);
    }
    schema
}

const TIME_PATTERN: &str = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$";

fn object(
    name: &str,
    properties: serde_json::Map<String, serde_json::Value>,
    required: &[&str],
) -> serde_json::Value {
    let mut properties = properties;
    properties.insert("type".into(), json!({"const": name}));
    let required: Vec<_> = std::iter::once("type").chain(required.iter().copied()).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn row_schema(row: &RowInfo) -> serde_json::Value {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for field in row.fields.iter().filter(|field| !field.key.is_empty()) {
        properties.insert(field.key.into(), field_schema(field));
        required.push(field.key);
        let hex = match field.kind {
            Kind::Bytes => json!({"type": "string", "pattern": "^([0-9a-f]{2})+$"}),
            Kind::List => {
                json!({"type": "array", "items": {"type": "string", "pattern": "^([0-9a-f]{2})*$"}})
            }
            _ => continue,
        };
        properties.insert(format!("{}_hex", field.key), hex);
    }
    object(row.name, properties, &required)
}

/// The JSON Schema that every line of a tool with these rows obeys.
pub fn schema(tool: &str, rows: &[RowInfo]) -> serde_json::Value {
    let map = |value: serde_json::Value| value.as_object().cloned().unwrap_or_default();
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "minimum": 0});
    let numbers = json!({"type": "object", "additionalProperties": number});
    let header = map(json!({
        "tool": {"const": tool}, "version": text, "schema": {"const": SCHEMA_VERSION},
        "host": text, "kernel": text, "time": {"type": "string", "pattern": TIME_PATTERN},
        "hooks": {"type": "object", "additionalProperties": {"type": "string"}},
        "notes": {"type": "array", "items": {"type": "string"}},
    }));
    let footer = map(json!({
        "time": {"type": "string", "pattern": TIME_PATTERN}, "generated": number, "events": number,
        "filtered": number, "lost": number, "lost_by_cause": numbers, "dropped_by_cause": numbers,
        "stacks_by_cause": numbers, "recursion_misses": numbers,
    }));
    let lost = map(json!({
        "time": {"type": "string", "pattern": TIME_PATTERN}, "lost": number, "lost_by_cause": numbers,
    }));
    let footer_keys: Vec<String> = footer.keys().cloned().collect();
    let footer_keys: Vec<&str> = footer_keys.iter().map(String::as_str).collect();
    let header_keys = ["tool", "version", "schema", "host", "kernel", "time", "hooks", "notes"];
    let mut any = vec![object("header", header, &header_keys)];
    any.extend(rows.iter().map(row_schema));
    any.push(object("lost", lost, &["time", "lost", "lost_by_cause"]));
    any.push(object("footer", footer, &footer_keys));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("{tool} --json: one object a line"),
        "oneOf": any,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Row)]
    #[row(type = "event")]
    struct Name {
        /// a name
        name: Vec<u8>,
    }

    fn line(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write_line(&mut out, &JsonRow(&Name { name: bytes.to_vec() })).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_byte_survives_and_none_is_hostile() {
        let every: Vec<u8> = (0..=255).collect();
        let text = line(&every);
        assert!(!text.trim_end().chars().any(is_hostile), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["name_hex"].as_str().unwrap(), hex(&every));
    }

    #[test]
    fn valid_text_needs_no_hex() {
        let text = line("a\u{9b}\u{202e}\u{7f}ü\n\"".as_bytes());
        assert!(text.contains("a\\u009b\\u202e\\u007fü\\n\\\""), "{text}");
        assert!(!text.contains("_hex"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["name"], "a\u{9b}\u{202e}\u{7f}ü\n\"");
    }
}
