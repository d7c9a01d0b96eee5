// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The output of a child, read as fast as it comes.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::DEADLINE;

/// What was waited for did not come until [`DEADLINE`].
pub(crate) struct InVain;

/// A pipe that a thread reads to its end.
pub(crate) struct Stream(Arc<Shared>);

#[derive(Default)]
struct Shared {
    read: Mutex<Received>,
    changed: Condvar,
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// Where each complete line ends, past its newline.
    ends: Vec<usize>,
    closed: bool,
}

impl Stream {
    pub(crate) fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let to = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                // An error ends it as the end does: what is missing then is the test's to find.
                let length = pipe.read(&mut chunk).unwrap_or(0);
                let mut read = to.lock();
                let start = read.bytes.len();
                read.bytes.extend_from_slice(&chunk[..length]);
                let newlines = chunk[..length].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                read.ends.extend(newlines.map(|(at, _)| start + at + 1));
                read.closed = length == 0;
                to.changed.notify_all();
                if read.closed {
                    return;
                }
            }
        });
        Self(shared)
    }

    /// Line `n`, without its newline, once it is there; `None` if the stream ended before.
    pub(crate) fn line(&self, n: usize) -> Option<Vec<u8>> {
        self.try_line(n)
            .unwrap_or_else(|InVain| panic!("waited {DEADLINE:?} in vain for line {n} of the output"))
    }

    /// [`Stream::line`], if it or the end comes at all.
    pub(crate) fn try_line(&self, n: usize) -> Result<Option<Vec<u8>>, InVain> {
        let received = self.0.wait(|received| received.ends.len() > n)?;
        Ok(received.ends.get(n).map(|end| {
            let start = n.checked_sub(1).map_or(0, |before| received.ends[before]);
            received.bytes[start..end - 1].to_vec()
        }))
    }

    /// How many complete lines there are by now.
    pub(crate) fn lines(&self) -> usize {
        self.0.lock().ends.len()
    }

    /// All that has come by now.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.0.lock().bytes.clone()
    }

    /// Everything, once the last process that has the pipe open has closed it.
    pub(crate) fn finish(self) -> Vec<u8> {
        let received = self.0.wait(|_| false);
        let mut received =
            received.unwrap_or_else(|InVain| panic!("waited {DEADLINE:?} in vain for the end of the output"));
        std::mem::take(&mut received.bytes)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until the stream has ended, or has come so far: not longer than [`DEADLINE`].
    fn wait(&self, come: impl Fn(&Received) -> bool) -> Result<MutexGuard<'_, Received>, InVain> {
        let start = Instant::now();
        let mut received = self.lock();
        while !received.closed && !come(&received) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(InVain);
            }
            let waited = self.changed.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(received)
    }
}
