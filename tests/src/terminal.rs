// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A terminal for a tool to write to.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr::null_mut;

use nix::errno::Errno;

/// A pseudo-terminal; its output is read as fast as it comes.
pub struct Terminal {
    reader: std::thread::JoinHandle<Vec<u8>>,
}

impl Terminal {
    /// One of this size, and the end that a program writes to.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(rows: u16, columns: u16) -> (Self, OwnedFd) {
        let (mut ours, mut theirs) = (-1, -1);
        let mut size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel writes two descriptors, which nobody else owns, and reads the size.
        let (ours, theirs) = unsafe {
            let result = libc::openpty(&raw mut ours, &raw mut theirs, null_mut(), null_mut(), &raw mut size);
            Errno::result(result).expect("a pseudo-terminal");
            (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut chunk = [0; 4096];
            // A terminal that nobody has open any more ends with an error.
            while let Ok(length @ 1..) = (&ours).read(&mut chunk) {
                all.extend_from_slice(&chunk[..length]);
            }
            all
        });
        (Self { reader }, theirs)
    }

    /// All that was written to it, once nobody has it open any more.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn written(self) -> String {
        let bytes = self.reader.join().expect("the terminal's reader");
        String::from_utf8(bytes).expect("text on a terminal")
    }
}
