// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of sampleip.

use kscope::prelude::*;

/// An address, or with --by-symbol a function, and its samples.
#[derive(Row)]
#[row(type = "row", table = "ADDR? PID? COMM? COUNT % SYMBOL")]
pub struct Sampled {
    /// Instruction pointer; with --by-symbol that of the function's first row
    #[row(column = "ADDR", width = 20)]
    pub address: Address,
    /// Process id, in user space
    #[row(column = "PID")]
    pub pid: Option<Pid>,
    /// Name of the thread that was sampled first, in user space
    #[row(column = "COMM", width = 17)]
    pub comm: Option<Vec<u8>>,
    /// Samples
    #[row(column = "COUNT", width = 8)]
    pub samples: u64,
    /// Share of all samples that are listed
    #[row(column = "%", width = 6, decimals = 1)]
    pub share_percent: f64,
    /// Function, if it has a name
    pub symbol: Option<Outside>,
    /// Distance from the function's beginning; without a name, from the file's
    pub offset_bytes: u64,
    /// Kernel module, executable or library
    pub module: Option<Outside>,
    /// Why there is no name
    #[row(also(column = "SYMBOL", help = "Function and offset, with its module", value = Self::symbol_shown))]
    pub unknown_reason: Option<String>,
    /// Where the process's first stack begins.
    #[row(skip)]
    pub stack_start: u64,
    /// Whether it stands for a function.
    #[row(skip)]
    pub by_symbol: bool,
}

/// Text from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outside(pub String);

impl Cell for Outside {
    const KIND: Kind = Kind::Bytes;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Bytes(self.0.as_bytes())
    }
}

/// An address, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u64);

impl Cell for Address {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(format!("{:#018x}", self.0))
    }
}

impl Sampled {
    /// `function+0x12 [module]`, or why there is no name.
    fn symbol_shown(&self) -> Value<'_> {
        let file = self.module.as_ref().map(|Outside(path)| path.rsplit('/').next().unwrap_or(path));
        let reason = self.unknown_reason.as_deref().unwrap_or_default();
        let offset = self.offset_bytes;
        let text = match (&self.symbol, file) {
            (Some(Outside(name)), None) if self.by_symbol => name.clone(),
            (Some(Outside(name)), None) => format!("{name}+{offset:#x}"),
            (Some(Outside(name)), Some(file)) if self.by_symbol => format!("{name} [{file}]"),
            (Some(Outside(name)), Some(file)) => format!("{name}+{offset:#x} [{file}]"),
            (None, Some(file)) if self.by_symbol => format!("[{file}: {reason}]"),
            (None, Some(file)) => format!("{file}+{offset:#x} [{reason}]"),
            (None, None) => format!("[{reason}]"),
        };
        Value::Owned(text.into_bytes())
    }
}
