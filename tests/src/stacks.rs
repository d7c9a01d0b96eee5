// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tools that count by stacks print, in each of their forms.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::bytes::bytes_of;

/// A stack of the JSON form.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Stack {
    pub pid: u32,
    pub tid: Option<u32>,
    pub comm: Vec<u8>,
    pub count: u64,
    pub total_us: Option<f64>,
    pub kernel: Vec<Frame>,
    pub user: Vec<Frame>,
    pub truncated: bool,
}

/// A frame of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Frame {
    pub address: u64,
    pub symbol: Option<String>,
    pub module: Option<String>,
    pub reason: Option<String>,
    pub inlined: bool,
}

impl Frame {
    fn of(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(String::from);
        let address = text("address").unwrap_or_default();
        let frame = Self {
            address: u64::from_str_radix(address.trim_start_matches("0x"), 16).expect("an address"),
            symbol: text("symbol"),
            module: text("module"),
            reason: text("unknown_reason"),
            inlined: value["inlined"].as_bool().expect("inlined"),
        };
        assert_eq!(frame.symbol.is_some(), frame.reason.is_none(), "{value}");
        frame
    }

    /// The frame as the forms without JSON show it.
    fn shown(&self) -> String {
        let file = self.module.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
        match (&self.symbol, file) {
            (Some(symbol), _) => symbol.clone(),
            (None, Some(file)) => format!("[{file}: {}]", self.reason.as_deref().unwrap_or_default()),
            (None, None) => format!("[{}]", self.reason.as_deref().unwrap_or_default()),
        }
    }
}

impl Stack {
    /// Of an object of the type `stack`.
    ///
    /// # Panics
    /// If it is none.
    pub fn of(value: &Value) -> Self {
        let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("{key}: {value}"));
        let frames =
            |key: &str| value[key].as_array().expect("frames").iter().map(Frame::of).collect::<Vec<_>>();
        let id = |number: u64| u32::try_from(number).expect("an id");
        Self {
            pid: id(number("pid")),
            tid: value["tid"].as_u64().map(id),
            comm: bytes_of(value, "comm"),
            count: number("count"),
            total_us: value["total_us"].as_f64(),
            kernel: frames("kernel"),
            user: frames("user"),
            truncated: value["truncated"].as_bool().expect("truncated"),
        }
    }

    /// Whether this function is in the user's stack.
    pub fn has(&self, function: &str) -> bool {
        self.user.iter().any(|frame| frame.symbol.as_deref() == Some(function))
    }

    /// As it is folded, of plain names: frames in a row of which nothing is known are one.
    pub fn folded(&self) -> String {
        let mut parts = vec![String::from_utf8_lossy(&self.comm).into_owned()];
        for frames in [&self.user, &self.kernel] {
            // The side that is as deep as the default limit.
            parts.extend((self.truncated && frames.len() >= 127).then(|| "[cut]".into()));
            let mut above = None;
            for frame in frames.iter().rev() {
                let unknown = (frame.symbol.is_none() && frame.module.is_none()).then_some(&frame.reason);
                if unknown.is_none() || unknown != above {
                    parts.push(frame.shown());
                }
                above = unknown;
            }
        }
        parts.iter().map(|part| part.replace(';', ":")).collect::<Vec<_>>().join(";")
    }
}

/// The lines of the folded form: each stack, and its number.
///
/// # Panics
/// If a line is no such line, or a stack comes twice.
pub fn folded(text: &str) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    for line in text.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let count = count.parse().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(stacks.insert(stack.into(), count), None, "twice: {line}");
    }
    stacks
}

/// The functions of a flame graph, and how many of the samples have them, as the boxes' titles tell.
///
/// # Panics
/// If that is no such file.
pub fn flame_graph(svg: &str) -> Vec<(String, u64)> {
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"), "{svg:.200}");
    let titles = svg.split("<title>").skip(1).filter_map(|part| part.split_once("</title>"));
    let unescape = |text: &str| {
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        text.replace("&#39;", "'").replace("&apos;", "'").replace("&amp;", "&")
    };
    let frame = |(title, _): (&str, &str)| {
        let title = unescape(title);
        let (name, numbers) = title.rsplit_once(" (")?;
        let count = numbers.split(' ').next()?.replace(',', "").parse().ok()?;
        Some((name.to_string(), count))
    };
    titles.filter_map(frame).collect()
}

/// A profile in pprof's format.
#[derive(Debug)]
pub struct Pprof {
    /// What its values are: name and unit.
    pub types: Vec<(String, String)>,
    /// The file of the first mapping, which readers take for the program's.
    pub program: Option<String>,
    /// Each sample: its functions, innermost first, its values, and its labels.
    pub samples: Vec<Sample>,
}

/// A sample's functions, values and labels.
pub type Sample = (Vec<String>, Vec<i64>, BTreeMap<String, String>);

/// A field of a protobuf message.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a number");
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    number
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Wire<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Wire::Bytes(value)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

/// Numbers of a field: packed, or one by one.
fn numbers(fields: &[(u64, Wire<'_>)], wanted: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    for (_, value) in fields.iter().filter(|(field, _)| *field == wanted) {
        match *value {
            Wire::Number(number) => numbers.push(number),
            Wire::Bytes(mut packed) => {
                while !packed.is_empty() {
                    numbers.push(varint(&mut packed));
                }
            }
        }
    }
    numbers
}

fn messages<'a>(fields: &[(u64, Wire<'a>)], wanted: u64) -> Vec<&'a [u8]> {
    let of = |(field, value): &(u64, Wire<'a>)| match value {
        Wire::Bytes(bytes) if *field == wanted => Some(*bytes),
        _ => None,
    };
    fields.iter().filter_map(of).collect()
}

impl Pprof {
    /// Read it, by the numbers of profile.proto and nothing of the tools' own.
    ///
    /// # Panics
    /// If it is none.
    pub fn read(path: &Path) -> Self {
        let unpacked = Command::new("gzip").arg("-dc").arg(path).output().expect("gzip");
        assert!(unpacked.status.success(), "{}: {unpacked:?}", path.display());
        let profile = fields(&unpacked.stdout);
        let strings: Vec<String> = messages(&profile, 6)
            .into_iter()
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect();
        assert_eq!(strings[0], "");
        let one = |message: &[u8], field| numbers(&fields(message), field).first().copied().unwrap_or(0);
        let text = |number: u64| strings[number as usize].clone();
        let functions: BTreeMap<u64, String> =
            messages(&profile, 5).into_iter().map(|f| (one(f, 1), text(one(f, 2)))).collect();
        let mappings: Vec<u64> = messages(&profile, 3).into_iter().map(|mapping| one(mapping, 1)).collect();
        let mut locations = BTreeMap::new();
        for location in messages(&profile, 4) {
            let (id, mapping) = (one(location, 1), one(location, 2));
            assert!(id > 0 && (mapping == 0 || mappings.contains(&mapping)));
            let lines = messages(&fields(location), 4);
            let names: Vec<_> = lines.iter().map(|line| functions[&one(line, 1)].clone()).collect();
            assert_eq!(locations.insert(id, names), None);
        }
        let sample = |message: &[u8]| {
            let fields_of = fields(message);
            let frames = numbers(&fields_of, 1).iter().flat_map(|id| locations[id].clone()).collect();
            let values = numbers(&fields_of, 2).into_iter().map(u64::cast_signed).collect();
            let label = |label: &[u8]| {
                let value = match one(label, 2) {
                    0 => one(label, 3).to_string(),
                    string => text(string),
                };
                (text(one(label, 1)), value)
            };
            (frames, values, messages(&fields_of, 3).into_iter().map(label).collect())
        };
        Self {
            types: messages(&profile, 1).into_iter().map(|t| (text(one(t, 1)), text(one(t, 2)))).collect(),
            program: messages(&profile, 3).first().map(|mapping| text(one(mapping, 5))),
            samples: messages(&profile, 2).into_iter().map(sample).collect(),
        }
    }

    /// Its samples folded, with the `n`th of their values.
    pub fn folded(&self, n: usize) -> BTreeMap<String, i64> {
        let mut stacks: BTreeMap<String, i64> = BTreeMap::new();
        for (frames, values, labels) in &self.samples {
            let parts = [&labels["comm"]].into_iter().chain(frames.iter().rev());
            let stack = parts.map(|part| part.replace(';', ":")).collect::<Vec<_>>().join(";");
            *stacks.entry(stack).or_default() += values[n];
        }
        stacks
    }
}
