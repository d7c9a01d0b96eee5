// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks: what the programs counted by them (bpf/stack.bpf.h), the names of their frames, and the forms in which
//! they are printed.
//!
//! The names are found by a thread of its own, so that the ring buffer is read on while files are. It notes at once
//! where the addresses of a new stack lie, since the process may end, and looks the names up when they are asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use libbpf_rs::OpenObject;
use plain::Plain;
use serde_json::json;

use crate::Columns;
use crate::Error;
use crate::Out;
use crate::cli::Common;
use crate::escape::escape;
use crate::pprof;
use crate::row::Field;
use crate::row::Kind;
use crate::row::Row;
use crate::row::Value;
use crate::say;
use crate::session;
use crate::spaces::Place;
use crate::symbols::Symbol;
use crate::symbols::Symbols;

/// `STACK_DEPTH_MAX`, `STACK_NONE` and `STACK_LOST` of bpf/stack.bpf.h.
const DEPTH_MAX: u32 = 1024;
const NONE: u64 = 0;
const LOST: u64 = 1;
const DEPTH: u32 = 127;
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

    /// Give the maps of bpf/stack.bpf.h their sizes.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        session::set_max_entries(object, "events", RING)?;
        session::set_max_entries(object, "stack_ids", self.storage)?;
        session::set_max_entries(object, "stacks", self.storage)
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

/// Stacks of single events, in tools that print those. Their records share the ring buffer with the stacks': they begin
/// with eight bytes of 0, where a stack's has its id.
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
        session::set_max_entries(object, "stack_ids", if self.any() { self.storage } else { 1 })?;
        session::set_max_entries(object, "stacks", 1)
    }
}

/// Whether a record of a tool with [`EventStacks`] is a stack's, and no event's.
pub fn is_stack(record: &[u8]) -> bool {
    record.first_chunk().is_some_and(|id| u64::from_ne_bytes(*id) != NONE)
}

/// The stacks of an event. Frames come innermost first.
#[derive(Clone, Debug, Default)]
pub struct EventFrames {
    kernel: Arc<[Frame]>,
    user: Arc<[Frame]>,
}

impl EventFrames {
    /// The kernel's, for JSON.
    pub fn kernel(&self) -> Value<'static> {
        Value::Json(self.kernel.iter().map(Frame::json).collect())
    }

    /// The user's, for JSON.
    pub fn user(&self) -> Value<'static> {
        Value::Json(self.user.iter().map(Frame::json).collect())
    }

    /// A frame a line, with a line between the kernel's and the user's.
    pub fn lines(&self) -> Vec<String> {
        let lines = |frames: &[Frame]| frames.iter().map(|frame| format!("    {}", frame.shown())).collect();
        let mut all: Vec<String> = lines(&self.kernel);
        if !self.kernel.is_empty() && !self.user.is_empty() {
            all.push("    --".into());
        }
        all.extend::<Vec<String>>(lines(&self.user));
        all
    }
}

/// Only stacks that are new go through the ring buffer.
const RING: u32 = 1 << 19;

/// Put [`StackOutput`] into the constants of a skeleton's `.rodata` (bpf/stack.bpf.h).
#[macro_export]
macro_rules! set_stacks {
    ($rodata:expr, $options:expr) => {{
        let options: &$crate::stack::StackOutput = $options;
        $rodata.stack_depth = options.depth()?;
        $rodata.stack_want_kernel = !options.user_stacks_only;
        $rodata.stack_want_user = !options.kernel_stacks_only;
    }};
}

/// Let the library read a skeleton's types of bpf/stack.bpf.h.
#[macro_export]
macro_rules! stack_types {
    () => {
        $crate::records!(types::stack_head: 32, types::stack_key: 40, types::stack_value: 16);
        impl From<types::stack_head> for $crate::stack::Head {
            fn from(head: types::stack_head) -> Self {
                Self {
                    id: head.id,
                    space: head.space,
                    stack_start: head.stack_start,
                    pid: head.tgid,
                    user: head.kind != types::stack_kind::STACK_KERNEL.0,
                    has_frames: head.kind != types::stack_kind::STACK_SPACE.0,
                }
            }
        }
        /// An entry of the map `stacks`.
        #[allow(dead_code)]
        fn stack_count((key, value): &(types::stack_key, types::stack_value)) -> $crate::stack::Counted {
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
    };
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
    truncated: bool,
}

impl Row for Stack {
    const TYPE: &'static str = "stack";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.counted.pid.into())),
        Field::new("tid", Kind::Uint, "Thread id, if threads are told apart", |r: &Self| {
            r.counted.tid.map_or(Value::Null, |tid| Value::Uint(tid.into()))
        })
        .nullable(),
        Field::new("comm", Kind::Bytes, "Name of the thread", |r: &Self| Value::Bytes(&r.counted.comm)),
        Field::new("count", Kind::Uint, "How often it was seen", |r: &Self| Value::Uint(r.counted.count)),
        Field::new("total_us", Kind::Float, "Microseconds in all, of tools that measure time", |r: &Self| {
            if r.timed { Value::Float(r.counted.total_ns as f64 / 1000.0, 3) } else { Value::Null }
        })
        .nullable(),
        Field::new(
            "kernel",
            Kind::Array,
            "Frames of the kernel, innermost first: address, symbol, offset_bytes from the function's beginning \
             (without a symbol, from the file's), module, inlined, unknown_reason",
            |r: &Self| Value::Json(r.kernel.iter().map(Frame::json).collect()),
        ),
        Field::new("user", Kind::Array, "Frames of user space, likewise", |r: &Self| {
            Value::Json(r.user.iter().map(Frame::json).collect())
        }),
        Field::new(
            "truncated",
            Kind::Bool,
            "Whether a stack is as deep as the limit, and may go on",
            |r: &Self| Value::Bool(r.truncated),
        ),
    ];
}

impl Stack {
    /// The number that the forms without names show: microseconds, or how often.
    fn value(&self) -> u64 {
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
        parts.extend(Self::shown(&self.user).rev().map(|f| f.shown() + mark(f, false)));
        if options.delimited && !self.user.is_empty() && !self.kernel.is_empty() {
            parts.push("-".into());
        }
        parts.extend(Self::shown(&self.kernel).rev().map(|f| f.shown() + mark(f, true)));
        parts.iter().map(|part| part.replace(';', ":")).collect::<Vec<_>>().join(";")
    }

    /// A frame a line, innermost first, and whose stack it is.
    fn text(&self, options: &StackOutput) -> String {
        let mut text = String::new();
        for (frames, kernel) in [(&self.kernel, true), (&self.user, false)] {
            if options.delimited && !kernel && !self.user.is_empty() && !self.kernel.is_empty() {
                text.push_str("    --\n");
            }
            for frame in Self::shown(frames) {
                let mark = if options.annotations { frame.mark(kernel) } else { "" };
                text.push_str(&format!("    {}{mark}\n", frame.shown()));
            }
        }
        let Counted { comm, pid, tid, .. } = &self.counted;
        let who = tid.map_or_else(|| pid.to_string(), |tid| format!("{pid}/{tid}"));
        text.push_str(&format!("    {:<16} {} ({who})", "-", escape(comm)));
        text
    }

    /// What a profile in pprof's format is made of.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (&Frame, String)> {
        let frames = Self::shown(&self.kernel).chain(Self::shown(&self.user));
        frames.map(|frame| (frame, frame.shown()))
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
#[derive(Debug)]
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
    depth: u32,
    named: RefCell<HashMap<u64, Named>>,
}

enum Message {
    Record(Head, Vec<u8>),
    Resolve(BTreeSet<u64>, mpsc::Sender<HashMap<u64, Named>>),
}

/// A stack's frames with names, and how many there were before inlined ones came in.
#[derive(Clone, Default)]
struct Named {
    frames: Arc<[Frame]>,
    depth: usize,
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
    pub fn start(options: &StackOutput, taken: Taken) -> Result<Self, Error> {
        let (thread, messages) = mpsc::channel();
        let builder = thread::Builder::new().name("symbols".into());
        let run = move || {
            let mut worker = Worker { taken, symbols: Symbols::new(), stacks: HashMap::new() };
            messages.into_iter().for_each(|message| worker.take(message));
        };
        builder.spawn(run).map_err(|error| Error::System { what: "starting a thread".into(), error })?;
        Ok(Self { thread, depth: options.depth()?, named: RefCell::default() })
    }

    /// A record of the ring buffer, of which `H` is the skeleton's type.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn record<H: Plain + Default + Into<Head>>(&self, record: &[u8]) -> Result<(), Error> {
        let (head, frames) = crate::record::<H>(record)?;
        self.thread.send(Message::Record(head.into(), frames.to_vec())).map_err(|_| ended())
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
                let truncated = kernel.depth.max(user.depth) >= self.depth as usize;
                Stack { counted, kernel: kernel.frames, user: user.frames, timed, truncated }
            })
            .collect();
        stacks.sort_by_key(|stack| {
            let Counted { pid, tid, kernel, user, .. } = stack.counted;
            (std::cmp::Reverse(stack.value()), pid, tid, kernel, user)
        });
        Ok(stacks)
    }

    fn resolve(&self, ids: BTreeSet<u64>) -> Result<HashMap<u64, Named>, Error> {
        let (answer, answers) = mpsc::channel();
        self.thread.send(Message::Resolve(ids, answer)).map_err(|_| ended())?;
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
        let of = |id: u64| named.get(&id).map(|named| named.frames.clone()).unwrap_or_default();
        Ok(EventFrames { kernel: of(kernel), user: of(user) })
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
}

struct Known {
    addresses: Box<[u64]>,
    /// Of a user stack.
    places: Option<Box<[Place]>>,
}

impl Worker {
    fn take(&mut self, message: Message) {
        match message {
            Message::Record(head, _) if !head.has_frames => {
                self.symbols.spaces().note(head.id, head.pid, head.stack_start);
            }
            Message::Record(head, frames) => self.keep(&head, &frames),
            Message::Resolve(ids, answer) => {
                // Who asked may be gone.
                _ = answer.send(self.resolve(&ids));
            }
        }
    }

    fn keep(&mut self, head: &Head, frames: &[u8]) {
        let (words, _) = frames.as_chunks();
        let addresses: Box<[u64]> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let places = head.user.then(|| {
            let place = |(i, address): (usize, &u64)| {
                self.symbols.spaces().place(head.space, head.pid, head.stack_start, called(i, *address))
            };
            addresses.iter().enumerate().map(place).collect()
        });
        self.stacks.insert(head.id, Known { addresses, places });
    }

    /// The names of these stacks' frames.
    fn resolve(&mut self, ids: &BTreeSet<u64>) -> HashMap<u64, Named> {
        self.symbols.spaces().forget_perf_maps();
        let mut kernel = BTreeSet::new();
        let mut user = BTreeSet::new();
        for known in ids.iter().filter_map(|id| self.stacks.get(id)) {
            match &known.places {
                Some(places) => user.extend(places.iter().copied()),
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

        let named = |id: &u64| match (*id, self.stacks.get(id)) {
            (NONE, _) => None,
            (LOST, _) => Some(missing("no room for the stack: see --stack-storage-size")),
            (_, None) => Some(missing("the stack was lost")),
            (_, Some(known)) => {
                let symbol = |i: usize| match &known.places {
                    Some(places) => user.get(&places[i]),
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
                Some(Named { frames: frames.into(), depth: known.addresses.len() })
            }
        };
        ids.iter().filter_map(|id| Some((*id, named(id)?))).collect()
    }
}

/// In place of a stack.
fn missing(why: &str) -> Named {
    let frame = Frame { address: 0, symbol: Arc::new(Symbol::unknown(why)), inlined: None };
    Named { frames: [frame].into(), depth: 0 }
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
        stacks.iter().try_for_each(|stack| out.row(&Columns::new(&[]), stack))?;
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
