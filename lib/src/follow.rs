// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the loop of a tool looks after besides events.

use std::os::fd::BorrowedFd;

use libbpf_rs::Link;

use crate::Error;
use crate::iterator::Iterator;

/// What comes up while a tool traces, and is to be traced too.
pub trait Follow {
    /// What becomes readable when something has come up.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Attach to what has come up.
    ///
    /// # Errors
    /// Those that end the tracing.
    fn follow(&mut self) -> Result<Vec<Link>, Error>;

    /// What is to be done just before the programs are detached.
    fn end(&mut self) {}

    /// What is to be done once they are, before the last records are read.
    ///
    /// # Errors
    /// The kernel's.
    fn detached(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Nothing comes up.
impl Follow for () {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        Ok(Vec::new())
    }
}

/// What else is to be done at the end, before and after detaching.
pub(crate) struct Ending<'f, F> {
    pub follow: &'f mut dyn Follow,
    pub before: Option<F>,
    pub flush: Option<Iterator>,
}

impl<F: FnOnce()> Follow for Ending<'_, F> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.follow.fds()
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        self.follow.follow()
    }

    fn end(&mut self) {
        self.follow.end();
        if let Some(before) = self.before.take() {
            before();
        }
    }

    fn detached(&mut self) -> Result<(), Error> {
        self.follow.detached()?;
        self.flush.take().map_or(Ok(()), Iterator::run)
    }
}
