// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The end of tracing, and the wait for it or for something to do.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use nix::sys::eventfd::EventFd;

use crate::Error;
use crate::command::Waiting;
use crate::memory;
use crate::options::Common;
use crate::signals;
use crate::targets::Targets;

/// The end of tracing, and the wait for it or for something to do.
pub(super) struct Watch {
    epoll: Epoll,
    deadline: Option<Instant>,
    pub(super) dry_run: bool,
    pub(super) reader_gone: bool,
    waits: u32,
    /// A command that is to be let go.
    command: Option<Waiting>,
    /// What tells that it has ended, and whether it has.
    ended: Option<(OwnedFd, bool)>,
    /// What the tool filters by.
    targets: Targets,
    tool: &'static str,
}

const RING: u64 = 0;
const STDOUT: u64 = 1;
const METRICS: u64 = 2;
const COMMAND: u64 = 3;
const FOLLOWED: u64 = 4;
const TARGET: u64 = 5;

impl Watch {
    pub(super) fn new(
        tool: &'static str,
        common: &Common,
        began: Instant,
        command: Option<Waiting>,
        targets: Targets,
    ) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("epoll"))?;
        // Errors alone are waited for: the reader of a pipe that goes away. A file can't be watched.
        let stdout = common.output.is_none().then(io::stdout);
        let watch = |stdout| epoll.add(stdout, EpollEvent::new(EpollFlags::empty(), STDOUT));
        match stdout.map_or(Ok(()), watch) {
            Ok(()) | Err(nix::errno::Errno::EPERM) => (),
            Err(error) => return Err(Error::system("watching stdout")(error)),
        }
        for fd in targets.fds() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, TARGET);
            epoll.add(fd, event).map_err(Error::system("watching what the filter names"))?;
        }
        let deadline = common.duration.map(|time| began + time);
        Ok(Self {
            epoll,
            deadline,
            dry_run: common.dry_run,
            reader_gone: false,
            waits: 0,
            command,
            ended: None,
            targets,
            tool,
        })
    }

    /// Wake up when the kernel says so, which it does at a fill level, and not whenever there is data.
    pub(super) fn ring(&self, ring: &dyn MapCore) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, RING);
        self.epoll.add(ring.as_fd(), event).map_err(Error::system("watching the ring buffer"))
    }

    /// Wake up when somebody asks for metrics.
    pub(super) fn metrics(&self, wake: &EventFd) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, METRICS);
        self.epoll.add(wake, event).map_err(Error::system("watching for scrapes"))
    }

    /// Wake up when there is something to follow.
    pub(super) fn followed(&self, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, FOLLOWED);
        self.epoll.add(fd, event).map_err(Error::system("watching for what comes later"))
    }

    pub(super) fn over(&self) -> bool {
        self.dry_run
            || self.reader_gone
            || signals::stopped()
            || self.targets.are_over()
            || self.ended.as_ref().is_some_and(|(_, has_ended)| *has_ended)
            // A command is let go however short the time is.
            || self.command.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Wait for at most `time`.
    pub(super) fn wait(&mut self, time: Duration) -> Result<(), Error> {
        if let Some(command) = self.command.take() {
            let pidfd = command.release()?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, COMMAND);
            self.epoll.add(&pidfd, event).map_err(Error::system("watching the command"))?;
            self.ended = Some((pidfd, false));
        }
        let left = self.deadline.map_or(time, |d| time.min(d.saturating_duration_since(Instant::now())));
        let left = left.min(self.targets.patience());
        self.waits = self.waits.saturating_add(1);
        if self.waits == 2 {
            // Not earlier: somebody waits for the first event.
            memory::give_back_code();
        }
        // Rounded up: a wait that is too short by a fraction would turn into a spin.
        let ms = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut events = [EpollEvent::empty(); 8];
        match self.epoll.wait(&mut events, EpollTimeout::from(ms)) {
            Ok(n) => {
                let has = |source| events[..n].iter().any(|event| event.data() == source);
                self.reader_gone = has(STDOUT);
                if has(COMMAND)
                    && let Some((_, has_ended)) = &mut self.ended
                {
                    *has_ended = true;
                }
                self.targets.look(self.tool, has(TARGET))
            }
            // A signal, or a stop and a continuation.
            Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(Error::system("epoll_wait")(error)),
        }
    }
}
