// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks as a gzip'd `profile.proto`, which pprof and others read
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>: the numbers below are its fields').

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use crate::Error;
use crate::stack::frames::Meaning;
use crate::stack::frames::Stack;
use crate::time::Wall;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    string: i64,
    #[prost(int64, tag = "3")]
    number: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// A profile that is being made: everything stands in it once.
#[derive(Default)]
struct Builder {
    profile: Profile,
    strings: HashMap<String, i64>,
    mappings: HashMap<i64, u64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, u64), u64>,
}

impl Builder {
    /// Numbers of strings begin at 0, all others at 1.
    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.into());
        self.strings.insert(text.into(), number);
        number
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.string(kind), unit: self.string(unit) }
    }

    fn mapping(&mut self, filename: i64) -> u64 {
        let mappings = &mut self.profile.mapping;
        *self.mappings.entry(filename).or_insert_with(|| {
            let id = mappings.len() as u64 + 1;
            mappings.push(Mapping { id, filename, has_functions: true, has_inline_frames: true });
            id
        })
    }

    fn location(&mut self, address: u64, name: &str, module: Option<&str>) -> u64 {
        let (name, filename) = (self.string(name), self.string(module.unwrap_or_default()));
        let mapping_id = if module.is_some() { self.mapping(filename) } else { 0 };
        let functions = &mut self.profile.function;
        let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name: name, filename });
            id
        });
        let locations = &mut self.profile.location;
        *self.locations.entry((address, function_id)).or_insert_with(|| {
            let id = locations.len() as u64 + 1;
            locations.push(Location { id, mapping_id, address, line: vec![Line { function_id }] });
            id
        })
    }
}

/// The file of the program of which there is most.
fn main_program(stacks: &[Stack]) -> Option<&str> {
    let mut programs: BTreeMap<&str, u64> = BTreeMap::new();
    for stack in stacks {
        if let Some(program) = stack.program() {
            *programs.entry(program).or_default() += stack.value();
        }
    }
    programs.into_iter().max_by_key(|(_, value)| *value).map(|(program, _)| program)
}

/// Encode stacks.
///
/// # Errors
/// Memory's.
pub(crate) fn encode(stacks: &[Stack], meaning: &Meaning, duration: Duration) -> Result<Vec<u8>, Error> {
    let mut builder = Builder::default();
    builder.string("");
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let mut types = vec![builder.value_type(meaning.counted, "count")];
    if let Some(period) = meaning.period {
        types.push(builder.value_type("cpu", "nanoseconds"));
        builder.profile.period_type = Some(builder.value_type("cpu", "nanoseconds"));
        builder.profile.period = nanos(period);
    }
    if let Some(timed) = meaning.timed {
        types.push(builder.value_type(timed, "nanoseconds"));
    }
    builder.profile.sample_type = types;
    builder.profile.duration_nanos = nanos(duration);
    builder.profile.time_nanos = Wall::now().0 - nanos(duration);

    // Readers take the first mapping for the program's file.
    if let Some(program) = main_program(stacks) {
        let filename = builder.string(program);
        builder.mapping(filename);
    }
    let [comm, pid, tid] = ["comm", "pid", "tid"].map(|key| builder.string(key));
    for stack in stacks {
        let counted = stack.counted();
        let mut sample = Sample::default();
        for (address, name, module) in stack.frames() {
            let id = builder.location(address, &name, module);
            sample.location_id.push(id);
        }
        let count = counted.count as i64;
        sample.value.push(count);
        sample.value.extend(meaning.period.map(|period| count.saturating_mul(nanos(period))));
        sample.value.extend(meaning.timed.map(|_| counted.total_ns as i64));
        let text = builder.string(&crate::escape::escape(&counted.comm));
        sample.label.push(Label { key: comm, string: text, number: 0 });
        sample.label.push(Label { key: pid, string: 0, number: counted.pid.into() });
        sample.label.extend(counted.tid.map(|number| Label { key: tid, string: 0, number: number.into() }));
        builder.profile.sample.push(sample);
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let written = gzip.write_all(&builder.profile.encode_to_vec()).and_then(|()| gzip.finish());
    written.map_err(|error| Error::System { what: "compressing a profile".into(), error })
}
