// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stacks that the programs sent, and their names, once they are asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use libbpf_rs::Link;
use libbpf_rs::MapHandle;
use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;

use crate::Error;
use crate::follow::Follow;
use crate::namer::Namer;
use crate::say;
use crate::stack::frames::Cut;
use crate::stack::frames::EventFrames;
use crate::stack::frames::Stack;
use crate::stack::options::StackOutput;
use crate::stack::records;
use crate::stack::records::Counted;
use crate::stack::records::HasStacks;
use crate::stack::worker::Message;
use crate::stack::worker::Named;
use crate::stack::worker::Taken;
use crate::stack::worker::Worker;
use crate::stack::worker::wake;

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

impl Stacks {
    /// Start the thread: after [`crate::session::Session::start`], as each thread has capabilities of its own.
    ///
    /// # Errors
    /// The kernel's, or [`Error::Usage`] of the options.
    pub(crate) fn start<B: HasStacks>(
        options: &StackOutput,
        namer: Namer,
        taken: Taken,
        slots_map: MapHandle,
    ) -> Result<Self, Error> {
        let slots = records::slots::<B>(slots_map);
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
            if let Err(error) = Worker::new(taken, namer, slots, asking).run(&messages, &fd) {
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
        let (head, frames) = crate::record::record::<B::Head>(record)?;
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
