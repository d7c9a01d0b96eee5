// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks with the names of their frames.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::escape::escape;
use crate::row::Cell;
use crate::row::Field;
use crate::row::Fields;
use crate::row::Kind;
use crate::row::Row;
use crate::row::Shown;
use crate::row::Value;
use crate::stack::options::StackOutput;
use crate::stack::records::Counted;
use crate::symbol::Symbol;

/// In place of the frames that a stack has beyond the limit.
const CUT: &str = "[cut]";

/// The stacks of an event. Frames come innermost first.
#[derive(Clone, Debug, Default)]
pub struct EventFrames {
    pub(super) kernel: Arc<[Frame]>,
    pub(super) user: Arc<[Frame]>,
    pub(super) cut: Cut,
    pub(super) wants_kernel: bool,
    pub(super) wants_user: bool,
}

impl EventFrames {
    /// The kernel's, for JSON, if they were asked for.
    pub fn kernel(&self) -> Option<Frames> {
        self.wants_kernel.then(|| Frames(self.kernel.clone()))
    }

    /// The user's, for JSON, if they were asked for.
    pub fn user(&self) -> Option<Frames> {
        self.wants_user.then(|| Frames(self.user.clone()))
    }

    /// Whether one of the two is as deep as the limit, and may go on.
    pub fn is_truncated(&self) -> bool {
        self.cut.kernel || self.cut.user
    }

    /// A frame a line, with a line between the kernel's and the user's.
    pub fn lines(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (frames, cut) in [(&self.kernel, self.cut.kernel), (&self.user, self.cut.user)] {
            if !all.is_empty() && !frames.is_empty() {
                all.push("    --".into());
            }
            all.extend(frames.iter().map(|frame| format!("    {}", frame.shown())));
            all.extend(cut.then(|| format!("    {CUT}")));
        }
        all
    }
}

/// Frames in JSON, innermost first.
#[derive(Clone, Debug)]
pub struct Frames(Arc<[Frame]>);

impl Cell for Frames {
    const KIND: Kind = Kind::Array;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::Json(self.0.iter().map(Frame::json).collect())
    }
}

/// A frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The address; of a caller, that to which it will return.
    pub address: u64,
    /// What the address belongs to. The name of an inlined frame is its own; the rest is of what it was put into.
    pub symbol: Arc<Symbol>,
    /// Which of the symbol's inlined functions it is.
    pub inlined: Option<usize>,
}

impl Frame {
    /// The function's name, or why there is none.
    pub fn name(&self) -> Result<&str, &str> {
        match (self.inlined, &self.symbol.name) {
            (Some(n), _) => Ok(&self.symbol.inlined[n]),
            (None, Ok(name)) => Ok(name),
            (None, Err(why)) => Err(why),
        }
    }

    /// The name; without one, in brackets the file and the reason, so that unknown places of a file are one.
    fn shown(&self) -> String {
        let text = match (self.name(), &self.symbol.module) {
            (Ok(name), _) => return escape(name.as_bytes()),
            (Err(why), Some(path)) => format!("[{}: {why}]", path.rsplit('/').next().unwrap_or(path)),
            (Err(why), None) => format!("[{why}]"),
        };
        escape(text.as_bytes())
    }

    fn mark(&self, kernel: bool) -> &'static str {
        match (self.inlined, kernel) {
            (Some(_), _) => "_[i]",
            (None, true) => "_[k]",
            (None, false) => "",
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "address": format!("{:#018x}", self.address), "symbol": self.name().ok(),
            "offset_bytes": self.symbol.offset, "module": self.symbol.module,
            "inlined": self.inlined.is_some(), "unknown_reason": self.name().err(),
        })
    }
}

/// What was counted for a pair of stacks, with names. Frames come innermost first.
#[derive(Clone, Debug)]
pub struct Stack {
    pub(super) counted: Counted,
    pub(super) kernel: Arc<[Frame]>,
    pub(super) user: Arc<[Frame]>,
    pub(super) timed: bool,
    pub(super) cut: Cut,
    pub(super) program: Option<Arc<str>>,
}

/// Which of the two stacks are as deep as the limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub(super) kernel: bool,
    pub(super) user: bool,
}

const fn field(key: &'static str, kind: Kind, nullable: bool, help: &'static str) -> Field {
    Field { key, kind, nullable, help, title: "", width: 0 }
}

impl Fields for Stack {
    const FIELDS: &'static [Field] = &[
        field("pid", Kind::Uint, false, "Process id"),
        field("tid", Kind::Uint, true, "Thread id, if threads are told apart"),
        field("comm", Kind::Bytes, false, "Name of the thread"),
        field("count", Kind::Uint, false, "How often it was seen"),
        field("total_us", Kind::Float, true, "Microseconds in all, of tools that measure time"),
        field(
            "kernel",
            Kind::Array,
            false,
            "Frames of the kernel, innermost first: address, symbol, offset_bytes from the function's beginning \
             (without a symbol, from the file's), module, inlined, unknown_reason",
        ),
        field("user", Kind::Array, false, "Frames of user space, likewise"),
        field("truncated", Kind::Bool, false, "Whether a stack is as deep as the limit, and may go on"),
    ];

    fn value(&self, at: usize) -> Value<'_> {
        match at {
            0 => self.counted.pid.into(),
            1 => self.counted.tid.into(),
            2 => Value::Bytes(&self.counted.comm),
            3 => self.counted.count.into(),
            4 if self.timed => Value::Float(self.counted.total_ns as f64 / 1000.0, 3),
            5 => Value::Json(self.kernel.iter().map(Frame::json).collect()),
            6 => Value::Json(self.user.iter().map(Frame::json).collect()),
            7 => Value::Bool(self.cut.kernel || self.cut.user),
            _ => Value::Null,
        }
    }
}

impl Row for Stack {
    const TYPE: &'static str = "stack";
    const TABLE: &'static [Shown] = &[];
}

impl Stack {
    /// The number that the forms without names show: microseconds, or how often.
    pub(crate) fn value(&self) -> u64 {
        if self.timed { self.counted.total_ns / 1000 } else { self.counted.count }
    }

    /// The frames as a reader is shown them: of those in a row of which nothing is known, one.
    fn shown(frames: &[Frame]) -> impl DoubleEndedIterator<Item = &Frame> {
        let unknown = |frame: &Frame| frame.name().is_err() && frame.symbol.module.is_none();
        let repeats = move |i: usize, frame: &Frame| {
            i > 0 && unknown(frame) && unknown(&frames[i - 1]) && frame.name() == frames[i - 1].name()
        };
        frames.iter().enumerate().filter(move |(i, frame)| !repeats(*i, frame)).map(|(_, frame)| frame)
    }

    /// Outermost first, as flame graphs have it.
    pub(super) fn folded(&self, options: &StackOutput) -> String {
        let mut parts = vec![escape(&self.counted.comm)];
        let mark = |frame: &Frame, kernel| if options.annotations { frame.mark(kernel) } else { "" };
        parts.extend(self.cut.user.then(|| CUT.into()));
        parts.extend(Self::shown(&self.user).rev().map(|f| f.shown() + mark(f, false)));
        if options.delimited && !self.user.is_empty() && !self.kernel.is_empty() {
            parts.push("-".into());
        }
        parts.extend(self.cut.kernel.then(|| CUT.into()));
        parts.extend(Self::shown(&self.kernel).rev().map(|f| f.shown() + mark(f, true)));
        parts.iter().map(|part| part.replace(';', ":")).collect::<Vec<_>>().join(";")
    }

    /// A frame a line, innermost first, and whose stack it is.
    pub(super) fn text(&self, options: &StackOutput) -> String {
        let mut text = String::new();
        for (frames, kernel, cut) in
            [(&self.kernel, true, self.cut.kernel), (&self.user, false, self.cut.user)]
        {
            if options.delimited && !kernel && !self.user.is_empty() && !self.kernel.is_empty() {
                text.push_str("    --\n");
            }
            for frame in Self::shown(frames) {
                let mark = if options.annotations { frame.mark(kernel) } else { "" };
                text.push_str(&format!("    {}{mark}\n", frame.shown()));
            }
            if cut {
                text.push_str(&format!("    {CUT}\n"));
            }
        }
        let Counted { comm, pid, tid, .. } = &self.counted;
        let who = tid.map_or_else(|| pid.to_string(), |tid| format!("{pid}/{tid}"));
        text.push_str(&format!("    {:<16} {} ({who})", "-", escape(comm)));
        text
    }

    /// What a profile in pprof's format is made of: address, name and file.
    pub(crate) fn frames<'a>(&'a self) -> Vec<(u64, String, Option<&'a str>)> {
        let mut all = Vec::new();
        for (frames, cut) in [(&self.kernel, self.cut.kernel), (&self.user, self.cut.user)] {
            let frame = |frame: &'a Frame| (frame.address, frame.shown(), frame.symbol.module.as_deref());
            all.extend(Self::shown(frames).map(frame));
            all.extend(cut.then(|| (0, CUT.into(), None)));
        }
        all
    }

    /// The file of the program that the process executed.
    pub(crate) fn program(&self) -> Option<&str> {
        self.program.as_deref()
    }

    /// An order in which those are together that no reader can tell apart: they are of generations of an address
    /// space in which their addresses meant the same.
    pub(super) fn cmp_shown(&self, other: &Self) -> Ordering {
        let who = |stack: &Self| (stack.counted.pid, stack.counted.tid, stack.counted.kernel);
        fn key(frame: &Frame) -> (u64, Option<usize>, Result<&str, &str>, Option<&str>) {
            (frame.address, frame.inlined, frame.name(), frame.symbol.module.as_deref())
        }
        let order = who(self).cmp(&who(other)).then_with(|| self.counted.comm.cmp(&other.counted.comm));
        order.then_with(|| self.user.iter().map(key).cmp(other.user.iter().map(key)))
    }

    pub(crate) fn counted(&self) -> &Counted {
        &self.counted
    }
}

/// What the numbers mean.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// The title of a flame graph.
    pub title: &'static str,
    /// What is counted, as `samples`.
    pub counted: &'static str,
    /// What is measured, if that is a time, as `off_cpu`.
    pub timed: Option<&'static str>,
    /// For samples of a timer, how long each stands for.
    pub period: Option<Duration>,
}
