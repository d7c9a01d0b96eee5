// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rows of sampleip.

use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::Value;

/// An address, or with --by-symbol a function, and its samples.
pub struct Sampled {
    /// The instruction pointer.
    pub address: u64,
    /// Where the process's first stack begins.
    pub stack_start: u64,
    /// The function, or why it has no name.
    pub name: Result<String, String>,
    /// Kernel module, executable or library.
    pub module: Option<String>,
    /// Bytes from the function's beginning; without a name, from the file's.
    pub offset: u64,
    /// Whose it is and its name, in user space.
    pub process: Option<(u32, Vec<u8>)>,
    /// How often it was found there.
    pub samples: u64,
    /// Of all that are listed.
    pub percent: f64,
    /// Whether it stands for a function.
    pub by_symbol: bool,
}

impl Sampled {
    /// `function+0x12 [module]`, or why there is no name.
    fn symbol_shown(&self) -> Vec<u8> {
        let file = self.module.as_ref().map(|module| module.rsplit('/').next().unwrap_or(module));
        let text = match (&self.name, file) {
            (Ok(name), None) if self.by_symbol => name.clone(),
            (Ok(name), None) => format!("{name}+{:#x}", self.offset),
            (Ok(name), Some(file)) if self.by_symbol => format!("{name} [{file}]"),
            (Ok(name), Some(file)) => format!("{name}+{:#x} [{file}]", self.offset),
            (Err(reason), Some(file)) if self.by_symbol => format!("[{file}: {reason}]"),
            (Err(reason), Some(file)) => format!("{file}+{:#x} [{reason}]", self.offset),
            (Err(reason), None) => format!("[{reason}]"),
        };
        text.into_bytes()
    }
}

impl Row for Sampled {
    const TYPE: &'static str = "row";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new(
            "address",
            Kind::Text,
            "Instruction pointer; with --by-symbol that of the function's first row",
            |r: &Self| Value::String(format!("{:#018x}", r.address)),
        )
        .column("ADDR", 20),
        Field::new("pid", Kind::Uint, "Process id, in user space", |r: &Self| {
            r.process.as_ref().map_or(Value::Null, |(pid, _)| Value::Uint((*pid).into()))
        })
        .nullable()
        .column("PID", 8),
        Field::new(
            "comm",
            Kind::Bytes,
            "Name of the thread that was sampled first, in user space",
            |r: &Self| r.process.as_ref().map_or(Value::Null, |(_, comm)| Value::Bytes(comm)),
        )
        .nullable()
        .column("COMM", 17),
        Field::new("samples", Kind::Uint, "Samples", |r: &Self| Value::Uint(r.samples)).column("COUNT", 8),
        Field::new("share_percent", Kind::Float, "Share of all samples that are listed", |r: &Self| {
            Value::Float(r.percent, 1)
        })
        .column("%", 6),
        Field::new("symbol", Kind::Bytes, "Function, if it has a name", |r: &Self| {
            r.name.as_ref().map_or(Value::Null, |name| Value::Bytes(name.as_bytes()))
        })
        .nullable(),
        Field::new(
            "offset_bytes",
            Kind::Uint,
            "Distance from the function's beginning; without a name, from the file's",
            |r: &Self| Value::Uint(r.offset),
        ),
        Field::new("module", Kind::Bytes, "Kernel module, executable or library", |r: &Self| {
            r.module.as_ref().map_or(Value::Null, |module| Value::Bytes(module.as_bytes()))
        })
        .nullable(),
        Field::new("unknown_reason", Kind::Text, "Why there is no name", |r: &Self| {
            r.name.as_ref().err().map_or(Value::Null, |reason| Value::Text(reason))
        })
        .nullable(),
        Field::table_only("SYMBOL", 0, "Function and offset, with its module", |r: &Self| {
            Value::Owned(r.symbol_shown())
        }),
    ];
}
