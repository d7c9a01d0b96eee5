// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole lines into a file that may have no room for a while: what can't be written is counted, and no half line
//! stays behind.

use std::fs::File;
use std::io;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use crate::Error;
use crate::say;

/// So much is written at a time, and kept while the file has no room.
const CAPACITY: usize = 64 << 10;

/// What the output does, for those who look at it from another thread.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Rows that could not be written.
    pub unwritten: AtomicU64,
    /// A write is going on, which lasts as long as a reader does not read.
    pub is_writing: AtomicBool,
}

/// Lines that wait to be written, and where to.
pub(crate) struct Sink {
    tool: &'static str,
    file: File,
    buffer: Vec<u8>,
    /// Where each line of the buffer ends, and how many rows it is.
    lines: Vec<(usize, u32)>,
    /// The file has no room, which was said.
    is_full: bool,
    unwritten_lines: u64,
    state: Arc<State>,
}

/// Whether there may be room later. EFBIG is that of RLIMIT_FSIZE.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

impl Sink {
    pub fn new(tool: &'static str, file: File) -> Self {
        Self {
            tool,
            file,
            buffer: Vec::with_capacity(CAPACITY),
            lines: Vec::new(),
            is_full: false,
            unwritten_lines: 0,
            state: Arc::default(),
        }
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether the file had no room at the last try.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many lines could not be written.
    pub fn unwritten_lines(&self) -> u64 {
        self.unwritten_lines
    }

    /// How many rows could not be written.
    pub fn unwritten_rows(&self) -> u64 {
        self.state.unwritten.load(Ordering::Relaxed)
    }

    /// Append what `write` makes: lines that belong together, which are `rows` rows.
    pub fn line(
        &mut self,
        rows: u32,
        write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let start = self.buffer.len();
        write(&mut self.buffer).map_err(Error::output)?;
        self.lines.push((self.buffer.len(), rows));
        if self.buffer.len() <= CAPACITY {
            Ok(())
        } else if self.is_full {
            self.give_up(self.lines.len() - 1);
            self.buffer.truncate(start);
            Ok(())
        } else {
            self.flush()
        }
    }

    /// Write all lines. Where there is no room for them, they stay, and the next call tries again.
    ///
    /// # Errors
    /// Others than that there is no room.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        match self.try_flush() {
            Ok(()) if self.is_full => {
                self.is_full = false;
                say(&format!("{}: the output can be written again", self.tool));
            }
            Err(error) if is_full(&error) => {
                if !self.is_full {
                    let error = Error::Output(error);
                    say(&format!(
                        "{}: {error}; it is tried again, and what finds no room is lost",
                        self.tool
                    ));
                }
                self.is_full = true;
            }
            result => result.map_err(Error::output)?,
        }
        Ok(())
    }

    /// Write all lines, or fail also where there is no room.
    pub fn try_flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        self.state.is_writing.store(true, Ordering::Relaxed);
        let result = self.write(&mut written);
        self.state.is_writing.store(false, Ordering::Relaxed);
        let whole = self.lines.partition_point(|(end, _)| *end <= written);
        let end = self.lines[..whole].last().map_or(0, |(end, _)| *end);
        // What can't be taken back is completed when there is room.
        let gone = if written > end && self.take_back(written - end).is_ok() { end } else { written };
        self.buffer.drain(..gone);
        self.lines.drain(..whole);
        self.lines.iter_mut().for_each(|(end, _)| *end -= gone);
        result
    }

    /// [`Sink::flush`], and give up what finds no room.
    pub fn flush_at_end(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.give_up(0);
        self.buffer.clear();
        Ok(())
    }

    fn write(&mut self, written: &mut usize) -> io::Result<()> {
        while *written < self.buffer.len() {
            match self.file.write(&self.buffer[*written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => *written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                // Somebody who has the pipe too does not want to wait for it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A signal ends it, as anything else does: the next write tells.
                    _ = poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Take the last bytes of a regular file away again, if they are the last ones.
    fn take_back(&mut self, length: usize) -> io::Result<()> {
        let meta = self.file.metadata()?;
        let at = self.file.stream_position()?;
        let whole = meta.len().checked_sub(length as u64);
        match whole.filter(|_| meta.is_file() && at == meta.len()) {
            Some(whole) => {
                self.file.set_len(whole)?;
                self.file.seek(SeekFrom::Start(whole)).map(drop)
            }
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Count these lines and all behind them as unwritten.
    fn give_up(&mut self, from: usize) {
        for (_, rows) in self.lines.drain(from..) {
            self.unwritten_lines += 1;
            self.state.unwritten.fetch_add(rows.into(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::OpenOptions;

    use super::*;

    fn put(sink: &mut Sink, text: &str) {
        sink.line(1, |to| to.write_all(text.as_bytes())).unwrap();
    }

    #[test]
    fn a_half_line_is_taken_back() {
        let path = std::env::temp_dir().join(format!("kscope-sink-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut sink = Sink::new("test", file);
        put(&mut sink, "one\n");
        sink.flush().unwrap();
        sink.file.write_all(b"tw").unwrap();
        sink.take_back(2).unwrap();
        put(&mut sink, "two\n");
        sink.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_finds_no_room_is_counted_by_row_and_line() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new("test", full);
        sink.line(0, |to| to.write_all(b"a title\n")).unwrap();
        let row = "x".repeat(1023) + "\n";
        (0..100).for_each(|_| put(&mut sink, &row));
        // The first write fails when the buffer has filled; from then on it is kept as it is.
        assert!(sink.is_full() && sink.buffer.len() >= CAPACITY - row.len());
        let kept = sink.lines.len() as u64;
        assert_eq!((kept + sink.unwritten_lines(), kept + sink.unwritten_rows()), (101, 101));
        sink.flush_at_end().unwrap();
        assert_eq!((sink.unwritten_lines(), sink.unwritten_rows(), sink.buffer.len()), (101, 100, 0));
    }

    #[test]
    fn what_is_kept_is_written_once_there_is_room() {
        let (reader, writer) = io::pipe().unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new("test", full);
        put(&mut sink, "one\n");
        sink.flush().unwrap();
        assert!(sink.is_full());
        sink.file = File::from(std::os::fd::OwnedFd::from(writer));
        put(&mut sink, "two\n");
        sink.flush().unwrap();
        assert!(!sink.is_full() && sink.unwritten_lines() == 0);
        drop(sink);
        assert_eq!(io::read_to_string(reader).unwrap(), "one\ntwo\n");
    }
}
