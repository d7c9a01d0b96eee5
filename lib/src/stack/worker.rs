// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that finds the names of stacks' frames.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EventFd;

use crate::Error;
use crate::namer::Namer;
use crate::spaces::Place;
use crate::spaces::Slots;
use crate::stack::frames::Frame;
use crate::stack::records::Head;
use crate::stack::records::LOST;
use crate::stack::records::NONE;
use crate::symbol::Symbol;
use crate::symbols::Symbols;

pub(super) enum Message {
    Record(Head, Vec<u8>),
    Resolve(BTreeSet<u64>, mpsc::Sender<HashMap<u64, Named>>),
    /// All has been read that the programs had sent when the thread asked.
    All,
}

/// A stack's frames with names, how many there were before inlined ones came in, and the program's file.
#[derive(Clone, Default)]
pub(super) struct Named {
    pub(super) frames: Arc<[Frame]>,
    pub(super) depth: usize,
    pub(super) program: Option<Arc<str>>,
}

pub(super) fn wake(fd: &EventFd) -> Result<(), Error> {
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

/// What the thread knows.
pub(super) struct Worker {
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
    pub(super) fn new(taken: Taken, namer: Namer, slots: Slots, wants_all: Arc<EventFd>) -> Self {
        let mut symbols = Symbols::new(namer);
        symbols.spaces().watch(slots);
        Self {
            taken,
            symbols,
            stacks: HashMap::new(),
            names: HashMap::new(),
            unread: BTreeSet::new(),
            ended: Vec::new(),
            asked: None,
            wants_all,
        }
    }

    pub(super) fn run(mut self, messages: &mpsc::Receiver<Message>, fd: &EventFd) -> Result<(), Error> {
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
