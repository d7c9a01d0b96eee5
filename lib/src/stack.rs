// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks: what the programs counted by them (bpf/stack.bpf.h), the names of their frames, and the forms in which
//! they are printed.
//!
//! The names are found by a thread of its own, so that the ring buffer is read on while files are. It notes at once
//! where the addresses of a new stack lie, since that may change, and looks the names up when they are asked for or
//! when the last process that maps a file ends: then it closes the file.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use libbpf_rs::Link;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::OpenObject;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use plain::Plain;
use serde_json::json;

use crate::Capability;
use crate::Error;
use crate::Hooks;
use crate::Out;
use crate::bpf::Bpf;
use crate::bpf::Map as MapName;
use crate::cli::Common;
use crate::escape::escape;
use crate::hooks::Hook;
use crate::namer::Namer;
use crate::pprof;
use crate::row::Cell;
use crate::row::Field;
use crate::row::Fields;
use crate::row::Kind;
use crate::row::Row;
use crate::row::Shown;
use crate::row::Value;
use crate::say;
use crate::session::Follow;
use crate::spaces::Place;
pub use crate::spaces::Slot;
pub use crate::spaces::Slots;
use crate::symbols;
use crate::symbols::Symbol;
use crate::symbols::Symbols;

/// `STACK_DEPTH_MAX`, `STACK_NONE` and `STACK_LOST` of bpf/stack.bpf.h.
const DEPTH_MAX: u32 = 1024;
const NONE: u64 = 0;
const LOST: u64 = 1;
const DEPTH: u32 = 127;
/// The option that gives more room.
pub(crate) const ROOM: &str = "--stack-storage-size";
/// Its hook.
const MAPPING: Hook = Hook("stack_mapping");
/// In place of the frames that a stack has beyond the limit.
const CUT: &str = "[cut]";
const MAX_STACK: &str = "/proc/sys/kernel/perf_event_max_stack";

/// How stacks are taken, kept and printed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stacks")]
pub struct StackOutput {
    /// Print each stack folded in one line, as flamegraph.pl and others read it
    #[arg(short = 'f', long, conflicts_with = "json")]
    pub folded: bool,
    /// Write a flame graph to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write a profile that `go tool pprof` reads to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,
    /// Put a delimiter between frames of the kernel and of user space
    #[arg(short = 'd', long)]
    pub delimited: bool,
    /// Mark frames of the kernel with _[k] and inlined ones with _[i]
    #[arg(long)]
    pub annotations: bool,
    /// Take kernel stacks only
    #[arg(short = 'K', long, conflicts_with = "user_stacks_only")]
    pub kernel_stacks_only: bool,
    /// Take user stacks only
    #[arg(short = 'U', long)]
    pub user_stacks_only: bool,
    /// Frames of a stack at most [default: 127, or the kernel's limit if that is less]
    #[arg(long = "perf-max-stack-depth", value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    pub depth: Option<u32>,
    /// Different stacks at most
    #[arg(long = "stack-storage-size", value_name = "STACKS", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub storage: u32,
}

impl StackOutput {
    /// How deep stacks are taken.
    ///
    /// # Errors
    /// [`Error::Usage`] if the kernel takes none so deep.
    pub fn depth(&self) -> Result<u32, Error> {
        let limit = fs::read_to_string(MAX_STACK).ok().and_then(|text| text.trim().parse().ok());
        let limit = limit.unwrap_or(DEPTH).max(1);
        match self.depth {
            Some(depth) if depth > limit => Err(Error::Usage(format!(
                "this kernel takes at most {limit} frames of a stack (kernel.perf_event_max_stack)"
            ))),
            Some(depth) => Ok(depth),
            None => Ok(DEPTH.min(limit)),
        }
    }

    /// What finds names in files of processes, where these are wanted: before anything is loaded.
    ///
    /// # Errors
    /// The kernel's.
    pub fn namer(&self) -> Result<Namer, Error> {
        if self.kernel_stacks_only { Ok(Namer::none()) } else { Namer::fork() }
    }

    /// What to keep.
    pub fn capabilities(&self) -> Vec<Capability> {
        symbols::capabilities(!self.user_stacks_only, !self.kernel_stacks_only)
    }

    /// Tell the hooks what bpf/stack.bpf.h needs.
    pub fn hooks(&self, hooks: Hooks) -> Hooks {
        const NOTE: &str = "code that a process maps where other code was is told from that by its size only";
        // A function, a state, a place, and what is put there.
        let hooks = hooks.with_args("ma_write", 4).optional(&[MAPPING], NOTE);
        if self.kernel_stacks_only { hooks.without(&[MAPPING]) } else { hooks }
    }

    /// Give the maps of bpf/stack.bpf.h their sizes.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        MapName("events").set_entries(object, RING)?;
        size_slots(object, !self.kernel_stacks_only)?;
        MapName("stack_ids").set_entries(object, self.storage)?;
        MapName("stacks").set_entries(object, self.storage)
    }

    /// Make the files that are asked for, while it is still allowed.
    ///
    /// # Errors
    /// There is a file of that name, or it can't be made.
    pub fn create_files(&self, common: &Common) -> Result<Files, Error> {
        let new = |path: &Option<PathBuf>| {
            let path = path.as_ref().filter(|_| !common.dry_run);
            path.map(NewFile::create).transpose()
        };
        Ok(Files { svg: new(&self.svg)?, pprof: new(&self.pprof)? })
    }
}

/// Stacks of single events, in tools that print those. Their records share the ring buffer with the stacks'.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stacks")]
pub struct EventStacks {
    /// Print the kernel's stack
    #[arg(short = 'K', long)]
    pub kernel_stack: bool,
    /// Print the user's stack
    #[arg(short = 'U', long)]
    pub user_stack: bool,
    /// Frames of a stack at most [default: 127, or the kernel's limit if that is less]
    #[arg(long = "perf-max-stack-depth", value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    depth: Option<u32>,
    /// Different stacks at most
    #[arg(long = "stack-storage-size", value_name = "STACKS", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    storage: u32,
}

impl EventStacks {
    /// Whether any is asked for.
    pub fn any(&self) -> bool {
        self.kernel_stack || self.user_stack
    }

    /// Which, as other tools say it; of no use without [`EventStacks::any`].
    pub fn options(&self) -> StackOutput {
        StackOutput {
            folded: false,
            svg: None,
            pprof: None,
            delimited: self.kernel_stack && self.user_stack,
            annotations: false,
            kernel_stacks_only: !self.user_stack,
            user_stacks_only: !self.kernel_stack,
            depth: self.depth,
            storage: self.storage,
        }
    }

    /// Give the maps of bpf/stack.bpf.h their sizes.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        size_slots(object, self.user_stack)?;
        MapName("stack_ids").set_entries(object, if self.any() { self.storage } else { 1 })?;
        MapName("stacks").set_entries(object, 1)
    }
}

fn size_slots(object: &mut OpenObject, are_wanted: bool) -> Result<(), Error> {
    if are_wanted { Ok(()) } else { MapName("stack_slots").set_entries(object, 1) }
}

/// Whether a record of a tool with [`EventStacks`] is a stack's, and no event's.
pub fn is_stack(record: &[u8]) -> bool {
    // Where an event has its time.
    record.first_chunk().is_some_and(|first| u64::from_ne_bytes(*first) == 0)
}

/// The stacks of an event. Frames come innermost first.
#[derive(Clone, Debug, Default)]
pub struct EventFrames {
    kernel: Arc<[Frame]>,
    user: Arc<[Frame]>,
    cut: Cut,
    wants_kernel: bool,
    wants_user: bool,
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

/// Only stacks that are new go through the ring buffer.
const RING: u32 = 1 << 19;

/// What the library reads of bpf/stack.bpf.h, with the types of a tool's object.
pub trait HasStacks: Bpf {
    /// What a stack's record begins with.
    type Head: Plain + Default + Into<Head>;
    /// What the programs know of a process's address space.
    type Slot: Plain + Default + Into<Slot> + 'static;
    /// The key of the map `stacks`.
    type Key: Plain + Default;
    /// The value of that map.
    type Value: Plain + Default;

    /// An entry of that map.
    fn counted(key: &Self::Key, value: &Self::Value) -> Counted;
}

/// Implement [`HasStacks`]: build.rs calls it where an object has the types.
#[macro_export]
macro_rules! stack_types {
    ($object:ty) => {
        impl $crate::stack::HasStacks for $object {
            type Head = types::kscope_stack_head;
            type Slot = types::kscope_stack_slot;
            type Key = types::kscope_stack_key;
            type Value = types::kscope_stack_value;

            fn counted(key: &Self::Key, value: &Self::Value) -> $crate::stack::Counted {
                $crate::stack::Counted {
                    kernel: key.kernel,
                    user: key.user,
                    pid: key.tgid,
                    tid: (key.tid != 0).then_some(key.tid),
                    comm: $crate::escape::c_bytes(&key.comm).to_vec(),
                    count: value.count,
                    total_ns: value.total_ns,
                }
            }
        }

        impl From<types::kscope_stack_slot> for $crate::stack::Slot {
            fn from(slot: types::kscope_stack_slot) -> Self {
                Self {
                    id: slot.id,
                    pid: slot.tgid,
                    stack_start: slot.stack_start,
                    changed: (slot.start, slot.end),
                    is_last: u32::from(slot.generations)
                        >= types::kscope_stack_limits::STACK_GENERATIONS_MAX.0,
                }
            }
        }

        impl From<types::kscope_stack_head> for $crate::stack::Head {
            fn from(head: types::kscope_stack_head) -> Self {
                Self {
                    id: head.id,
                    space: head.space,
                    stack_start: head.stack_start,
                    pid: head.tgid,
                    user: head.kind != types::kscope_stack_kind::STACK_KERNEL.0,
                    has_frames: head.kind != types::kscope_stack_kind::STACK_SPACE.0,
                }
            }
        }
    };
}

/// To look up what the programs know of a process's address space, in the map `stack_slots`.
fn slots<B: HasStacks>(map: MapHandle) -> Slots {
    let slots = map.max_entries().max(1);
    Box::new(move |pid| {
        let bytes = map.lookup(&(pid % slots).to_ne_bytes(), MapFlags::ANY).ok()??;
        Some(crate::record::<B::Slot>(&bytes).ok()?.0.into())
    })
}

/// What a stack's record begins with.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The stack's, or the address space's.
    pub id: u64,
    /// The address space of a user stack.
    pub space: u64,
    /// Where the address space's first stack begins.
    pub stack_start: u64,
    /// The process.
    pub pid: u32,
    /// Whether it is a user stack.
    pub user: bool,
    /// Whether it is a stack, and no address space.
    pub has_frames: bool,
}

/// What was counted for a pair of stacks.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Id of the kernel stack.
    pub kernel: u64,
    /// Id of the user stack.
    pub user: u64,
    /// Process id.
    pub pid: u32,
    /// Thread id, where threads are told apart.
    pub tid: Option<u32>,
    /// Name of the thread.
    pub comm: Vec<u8>,
    /// How often.
    pub count: u64,
    /// The sum of its durations, in nanoseconds.
    pub total_ns: u64,
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
    counted: Counted,
    kernel: Arc<[Frame]>,
    user: Arc<[Frame]>,
    timed: bool,
    cut: Cut,
    program: Option<Arc<str>>,
}

/// Which of the two stacks are as deep as the limit.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    kernel: bool,
    user: bool,
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
    fn folded(&self, options: &StackOutput) -> String {
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
    fn text(&self, options: &StackOutput) -> String {
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
    fn cmp_shown(&self, other: &Self) -> Ordering {
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

/// The files that were asked for.
#[derive(Debug, Default)]
pub struct Files {
    svg: Option<NewFile>,
    pprof: Option<NewFile>,
}

/// A file of our own; it goes again if it can't be written whole.
#[derive(Debug)]
struct NewFile {
    path: PathBuf,
    file: Option<fs::File>,
}

impl NewFile {
    fn create(path: &PathBuf) -> Result<Self, Error> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Error::System { what: path.display().to_string(), error })?;
        Ok(Self { path: path.clone(), file: Some(file) })
    }

    fn write(mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(file) = &mut self.file {
            let written = file.write_all(bytes).and_then(|()| file.flush());
            written.map_err(|error| Error::System { what: self.path.display().to_string(), error })?;
        }
        self.file = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            say(&format!("{}: {error}", self.path.display()));
        }
    }
}

/// The stacks that the programs sent, on the thread that knows their names.
pub struct Stacks {
    thread: mpsc::Sender<Message>,
    /// There is a message.
    wake: Arc<EventFd>,
    /// The thread wants to know when all that the programs have sent by now has been read.
    wants_all: Arc<EventFd>,
    depth: u32,
    wants_kernel: bool,
    wants_user: bool,
    named: RefCell<HashMap<u64, Named>>,
}

enum Message {
    Record(Head, Vec<u8>),
    Resolve(BTreeSet<u64>, mpsc::Sender<HashMap<u64, Named>>),
    /// All has been read that the programs had sent when the thread asked.
    All,
}

/// A stack's frames with names, how many there were before inlined ones came in, and the program's file.
#[derive(Clone, Default)]
struct Named {
    frames: Arc<[Frame]>,
    depth: usize,
    program: Option<Arc<str>>,
}

/// For the session: lets go of what belongs to processes that have ended, once the last of their
/// stacks was read.
pub(crate) struct Ends<'a> {
    stacks: &'a Stacks,
    is_asked: bool,
}

impl Follow for Ends<'_> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.stacks.wants_all.as_fd()]
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        if self.stacks.wants_all.read().is_ok() {
            // Now all is read; then this is called again, at once.
            self.is_asked = !self.is_asked;
            if self.is_asked {
                wake(&self.stacks.wants_all)?;
            } else {
                self.stacks.send(Message::All)?;
            }
        }
        Ok(Vec::new())
    }
}

fn wake(fd: &EventFd) -> Result<(), Error> {
    match fd.write(1) {
        // It is full of them.
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(error) => Err(Error::system("eventfd")(error)),
    }
}

/// Where the programs take kernel stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// At a sample: they begin where the processor was.
    AtSample,
    /// In a hook of the kernel's code: they begin with the tracing itself, which is left out.
    InHook,
}

impl Stacks {
    /// Start the thread: after [`crate::Session::start`], as each thread has capabilities of its own.
    ///
    /// # Errors
    /// The kernel's, or [`Error::Usage`] of the options.
    pub(crate) fn start<B: HasStacks>(
        options: &StackOutput,
        namer: Namer,
        taken: Taken,
        slots_map: MapHandle,
    ) -> Result<Self, Error> {
        let slots = slots::<B>(slots_map);
        let eventfd = || EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let eventfd = || eventfd().map(Arc::new).map_err(Error::system("eventfd"));
        let (fd, wants_all) = (eventfd()?, eventfd()?);
        let (thread, messages) = mpsc::channel();
        let builder = thread::Builder::new().name("symbols".into());
        let asking = wants_all.clone();
        let stacks = Self {
            thread,
            wake: fd.clone(),
            wants_all,
            depth: options.depth()?,
            wants_kernel: !options.user_stacks_only,
            wants_user: !options.kernel_stacks_only,
            named: RefCell::default(),
        };
        let run = move || {
            let mut symbols = Symbols::new(namer);
            symbols.spaces().watch(slots);
            let worker = Worker {
                taken,
                symbols,
                stacks: HashMap::new(),
                names: HashMap::new(),
                unread: BTreeSet::new(),
                ended: Vec::new(),
                asked: None,
                wants_all: asking,
            };
            if let Err(error) = worker.run(&messages, &fd) {
                say(&error.to_string());
            }
        };
        builder.spawn(run).map_err(|error| Error::System { what: "starting a thread".into(), error })?;
        Ok(stacks)
    }

    /// What the session follows.
    pub(crate) fn ends(&self) -> Ends<'_> {
        Ends { stacks: self, is_asked: false }
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        self.thread.send(message).map_err(|_| ended())?;
        wake(&self.wake)
    }

    /// A record of the ring buffer.
    ///
    /// # Errors
    /// The thread has ended.
    pub(crate) fn record<B: HasStacks>(&self, record: &[u8]) -> Result<(), Error> {
        let (head, frames) = crate::record::<B::Head>(record)?;
        self.send(Message::Record(head.into(), frames.to_vec()))
    }

    /// What was counted, with names, most first. `timed` says that it was time.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn named(&self, counted: Vec<Counted>, timed: bool) -> Result<Vec<Stack>, Error> {
        let named =
            self.resolve(counted.iter().flat_map(|counted| [counted.kernel, counted.user]).collect())?;
        let of = |id: u64| named.get(&id).cloned().unwrap_or_default();
        let mut stacks: Vec<Stack> = counted
            .into_iter()
            .map(|counted| {
                let (kernel, user) = (of(counted.kernel), of(counted.user));
                let (cut, program) = (self.cut(&kernel, &user), user.program);
                Stack { counted, kernel: kernel.frames, user: user.frames, timed, cut, program }
            })
            .collect();
        stacks.sort_by(Stack::cmp_shown);
        stacks.dedup_by(|next, stack| {
            let is_same = next.cmp_shown(stack).is_eq();
            if is_same {
                stack.counted.count += next.counted.count;
                stack.counted.total_ns += next.counted.total_ns;
            }
            is_same
        });
        stacks.sort_by_key(|stack| {
            let Counted { pid, tid, kernel, user, .. } = stack.counted;
            (std::cmp::Reverse(stack.value()), pid, tid, kernel, user)
        });
        Ok(stacks)
    }

    fn cut(&self, kernel: &Named, user: &Named) -> Cut {
        let is_cut = |named: &Named| named.depth >= self.depth as usize;
        Cut { kernel: is_cut(kernel), user: is_cut(user) }
    }

    fn resolve(&self, ids: BTreeSet<u64>) -> Result<HashMap<u64, Named>, Error> {
        let (answer, answers) = mpsc::channel();
        self.send(Message::Resolve(ids, answer))?;
        answers.recv().map_err(|_| ended())
    }

    /// The stacks of one event. Names are looked up once for each different stack.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn of_event(&self, kernel: u64, user: u64) -> Result<EventFrames, Error> {
        let mut named = self.named.borrow_mut();
        let new: BTreeSet<u64> = [kernel, user].into_iter().filter(|id| !named.contains_key(id)).collect();
        if !new.is_empty() {
            named.extend(self.resolve(new)?);
        }
        let of = |id: u64| named.get(&id).cloned().unwrap_or_default();
        let (kernel, user) = (of(kernel), of(user));
        Ok(EventFrames {
            cut: self.cut(&kernel, &user),
            kernel: kernel.frames,
            user: user.frames,
            wants_kernel: self.wants_kernel,
            wants_user: self.wants_user,
        })
    }
}

fn ended() -> Error {
    Error::System { what: "finding symbols".into(), error: io::Error::other("the thread has ended") }
}

/// What the thread knows.
struct Worker {
    taken: Taken,
    symbols: Symbols,
    stacks: HashMap<u64, Known>,
    /// Names of places in files, which may be closed since.
    names: HashMap<Place, Arc<Symbol>>,
    /// Places that have none yet.
    unread: BTreeSet<Place>,
    /// Address spaces of processes that have ended.
    ended: Vec<u64>,
    /// Since when, and of which, the last stacks are awaited.
    asked: Option<(Instant, Vec<u64>)>,
    wants_all: Arc<EventFd>,
}

/// So long the last stacks of a process that has ended are waited for, where a reader blocks the tool.
const LAST_STACKS: Duration = Duration::from_secs(1);
/// Files in mounts that somebody may want to unmount are read once nothing else has come for so long.
const IDLE: Duration = Duration::from_millis(50);

struct Known {
    addresses: Box<[u64]>,
    /// Of a user stack.
    places: Option<Box<[Place]>>,
    program: Option<Arc<str>>,
}

impl Worker {
    fn run(mut self, messages: &mpsc::Receiver<Message>, fd: &EventFd) -> Result<(), Error> {
        loop {
            match messages.try_recv() {
                Ok(message) => self.take(message),
                Err(mpsc::TryRecvError::Empty) => self.wait(fd)?,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Wait for a message, or for the end of a process.
    fn wait(&mut self, wake: &EventFd) -> Result<(), Error> {
        let urgent: BTreeSet<Place> = {
            let spaces = self.symbols.spaces();
            let is_urgent = |place: &&Place| matches!(place, Place::File(file, _) if spaces.is_urgent(*file));
            self.unread.iter().filter(is_urgent).copied().collect()
        };
        let timeout = match &self.asked {
            _ if !urgent.is_empty() => Some(IDLE),
            Some((since, _)) => Some(LAST_STACKS.saturating_sub(since.elapsed())),
            None => None,
        };
        let pidfds = self.symbols.spaces().pidfds();
        let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(pidfds.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)));
        let timeout = timeout.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let ready = match poll(&mut fds, timeout) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(Error::system("poll")(error)),
        };
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let ended: Vec<u64> =
            pidfds.iter().zip(&fds[1..]).filter(|(_, fd)| is_ready(fd)).map(|((id, _), _)| *id).collect();
        let is_woken = is_ready(&fds[0]);
        drop(fds);
        drop(pidfds);
        if is_woken {
            // Another thread may have taken it: it is only a sign.
            _ = wake.read();
        }
        ended.into_iter().for_each(|id| self.symbols.spaces().has_ended(id));
        self.ended.extend(self.symbols.spaces().take_over());
        if ready == 0 && !urgent.is_empty() {
            self.read(urgent);
        }
        if let Some((since, _)) = &self.asked
            && since.elapsed() >= LAST_STACKS
        {
            self.let_go();
        }
        self.ask()
    }

    /// Have all read that the programs have sent.
    fn ask(&mut self) -> Result<(), Error> {
        if self.asked.is_some() || self.ended.is_empty() {
            return Ok(());
        }
        self.asked = Some((Instant::now(), std::mem::take(&mut self.ended)));
        wake(&self.wants_all)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Record(head, _) if !head.has_frames => {
                self.make_room();
                self.symbols.spaces().note(head.id, head.pid, head.stack_start);
            }
            Message::Record(head, frames) => self.keep(&head, &frames),
            Message::Resolve(ids, answer) => {
                // Who asked may be gone.
                _ = answer.send(self.resolve(&ids));
            }
            Message::All => self.let_go(),
        }
    }

    fn keep(&mut self, head: &Head, frames: &[u8]) {
        let (words, _) = frames.as_chunks();
        let addresses: Box<[u64]> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        self.make_room();
        let spaces = self.symbols.spaces();
        let places: Option<Box<[Place]>> = head.user.then(|| {
            let place = |(i, address): (usize, &u64)| {
                spaces.place(head.space, head.pid, head.stack_start, called(i, *address))
            };
            addresses.iter().enumerate().map(place).collect()
        });
        let program = places.as_ref().and_then(|_| spaces.program(head.space));
        let unread = places.iter().flatten().filter(|place| !self.names.contains_key(place));
        self.unread.extend(unread.filter(|place| !matches!(place, Place::Nowhere(_))).copied());
        self.stacks.insert(head.id, Known { addresses, places, program });
    }

    /// Have room for another address space.
    fn make_room(&mut self) {
        if !self.symbols.spaces().is_full() {
            return;
        }
        self.forget();
        if self.symbols.spaces().is_full() {
            let live = self.symbols.spaces().live();
            self.end(&live);
            self.forget();
        }
    }

    fn forget(&mut self) {
        let named: BTreeSet<u32> = self.names.keys().filter_map(file_of).collect();
        self.symbols.spaces().forget(|file| named.contains(&file));
    }

    /// The last stacks have come.
    fn let_go(&mut self) {
        if let Some((_, ended)) = self.asked.take() {
            self.end(&ended);
        }
    }

    /// Read what is needed of the files that only these address spaces have mapped, and close them.
    fn end(&mut self, spaces: &[u64]) {
        let (files, made) = self.symbols.spaces().end(spaces);
        let is_of = |place: &&Place| match place {
            Place::File(file, _) => files.contains(file),
            Place::Made(map, _) => made.contains(map),
            Place::Nowhere(_) => false,
        };
        let last = self.unread.iter().filter(is_of).copied().collect();
        self.read(last);
        files.into_iter().for_each(|file| self.symbols.close(file));
        made.into_iter().for_each(|made| self.symbols.spaces().close_made(made));
    }

    /// The seam to whatever finds names: those of places in files that are open.
    fn read(&mut self, places: BTreeSet<Place>) {
        self.unread.retain(|place| !places.contains(place));
        let places: Vec<Place> = places.into_iter().collect();
        let symbols = self.symbols.at(&places).into_iter().map(Arc::new);
        self.names.extend(places.iter().copied().zip(symbols));
    }

    /// The names of these stacks' frames.
    fn resolve(&mut self, ids: &BTreeSet<u64>) -> HashMap<u64, Named> {
        let mut kernel = BTreeSet::new();
        let mut user = BTreeSet::new();
        for known in ids.iter().filter_map(|id| self.stacks.get(id)) {
            match &known.places {
                Some(places) => {
                    user.extend(places.iter().filter(|place| !self.names.contains_key(place)).copied());
                }
                None => {
                    kernel.extend(known.addresses.iter().enumerate().flat_map(|(i, a)| [called(i, *a), *a]));
                }
            }
        }
        let (kernel, user): (Vec<u64>, Vec<Place>) =
            (kernel.into_iter().collect(), user.into_iter().collect());
        let arcs = |symbols: Vec<Symbol>| symbols.into_iter().map(Arc::new);
        let kernel: HashMap<u64, Arc<Symbol>> = if kernel.is_empty() {
            HashMap::new()
        } else {
            kernel.iter().copied().zip(arcs(self.symbols.kernel(&kernel))).collect()
        };
        let user: BTreeMap<Place, Arc<Symbol>> =
            user.iter().copied().zip(arcs(self.symbols.at(&user))).collect();
        // Those of code that a process makes may change.
        let in_files = user.iter().filter(|(place, _)| file_of(place).is_some());
        self.names.extend(in_files.map(|(place, symbol)| (*place, symbol.clone())));
        self.unread.retain(|place| !self.names.contains_key(place));

        let named = |id: &u64| match (*id, self.stacks.get(id)) {
            (NONE, _) => None,
            (LOST, _) => Some(missing("no room for the stack: see --stack-storage-size")),
            (_, None) => Some(missing("the stack was lost")),
            (_, Some(known)) => {
                let symbol = |i: usize| match &known.places {
                    Some(places) => self.names.get(&places[i]).or_else(|| user.get(&places[i])),
                    None => {
                        let exact = kernel.get(&known.addresses[i]).filter(|symbol| is_trampoline(symbol));
                        exact.or_else(|| kernel.get(&called(i, known.addresses[i])))
                    }
                };
                let mut frames = Vec::with_capacity(known.addresses.len());
                for (i, address) in known.addresses.iter().enumerate() {
                    let Some(symbol) = symbol(i) else { continue };
                    frames.extend(
                        (0..symbol.inlined.len()).rev().map(Some).chain([None]).map(|inlined| Frame {
                            address: *address,
                            symbol: symbol.clone(),
                            inlined,
                        }),
                    );
                }
                let hooked = known.places.is_none() && self.taken == Taken::InHook;
                let frames = if hooked { without_tracing(frames) } else { frames };
                Some(Named {
                    frames: frames.into(),
                    depth: known.addresses.len(),
                    program: known.program.clone(),
                })
            }
        };
        ids.iter().filter_map(|id| Some((*id, named(id)?))).collect()
    }
}

fn file_of(place: &Place) -> Option<u32> {
    if let Place::File(file, _) = place { Some(*file) } else { None }
}

/// In place of a stack.
fn missing(why: &str) -> Named {
    let frame = Frame { address: 0, symbol: Arc::new(Symbol::unknown(why)), inlined: None };
    Named { frames: [frame].into(), ..Named::default() }
}

/// A caller's address is that behind the call, which may belong to the next function.
fn called(depth: usize, address: u64) -> u64 {
    if depth == 0 { address } else { address.saturating_sub(1) }
}

/// Whether it is where a probed function returns to, which nobody called: there kernels before 5.15 lose the trace.
fn is_trampoline(symbol: &Symbol) -> bool {
    let is = |name: &String| name.ends_with("kretprobe_trampoline") || name == "arch_rethook_trampoline";
    symbol.offset == 0 && symbol.name.as_ref().is_ok_and(is)
}

/// Without the innermost frames that are of the tracing itself.
fn without_tracing(frames: Vec<Frame>) -> Vec<Frame> {
    const TRACING: [&str; 5] = ["bpf_", "__bpf_", "__traceiter_", "trace_call_bpf", "perf_"];
    let is_tracing =
        |frame: &Frame| frame.name().is_ok_and(|name| TRACING.iter().any(|prefix| name.starts_with(prefix)));
    let first = frames.iter().position(|frame| !is_tracing(frame)).unwrap_or(0);
    frames.into_iter().skip(first).collect()
}

/// Print stacks in the form that was asked for, and write the files. A file that can't be written fails at the end.
///
/// # Errors
/// Those of the output.
pub fn print(
    out: &mut Out,
    stacks: &[Stack],
    options: &StackOutput,
    files: Files,
    meaning: &Meaning,
    duration: Duration,
) -> Result<(), Error> {
    let mut folded: BTreeMap<String, u64> = BTreeMap::new();
    for stack in stacks {
        *folded.entry(stack.folded(options)).or_default() += stack.value();
    }
    let lines: Vec<String> = folded.iter().map(|(stack, value)| format!("{stack} {value}")).collect();
    if out.is_json() {
        stacks.iter().try_for_each(|stack| out.row(stack))?;
    } else if options.folded {
        lines.iter().try_for_each(|line| out.text(line))?;
    } else {
        // Those that look alike are one, as a reader can't tell them apart; the greatest last, where a terminal
        // shows it.
        let mut merged: BTreeMap<String, u64> = BTreeMap::new();
        for stack in stacks {
            *merged.entry(stack.text(options)).or_default() += stack.value();
        }
        let mut merged: Vec<_> = merged.into_iter().collect();
        merged.sort_by_key(|(_, value)| *value);
        for (text, value) in merged {
            out.text(&format!("{text}\n        {value}\n"))?;
        }
    }
    out.flush()?;
    if let Some(file) = files.svg {
        let drawn = flame_graph(&lines, meaning);
        out.fail_at_end(drawn.and_then(|svg| file.write(&svg)));
    }
    if let Some(file) = files.pprof {
        let encoded = pprof::encode(stacks, meaning, duration);
        out.fail_at_end(encoded.and_then(|bytes| file.write(&bytes)));
    }
    Ok(())
}

/// A flame graph of folded lines, as SVG.
fn flame_graph(lines: &[String], meaning: &Meaning) -> Result<Vec<u8>, Error> {
    let error = |error| Error::System { what: "drawing a flame graph".into(), error };
    let mut options = inferno::flamegraph::Options::default();
    options.title = meaning.title.into();
    options.count_name = if meaning.timed.is_some() { "us".into() } else { meaning.counted.into() };
    let mut svg = Vec::new();
    match inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg) {
        Ok(()) => Ok(svg),
        // It has then drawn a sentence instead.
        Err(_) if lines.is_empty() && !svg.is_empty() => Ok(svg),
        Err(e) => Err(error(e)),
    }
}
