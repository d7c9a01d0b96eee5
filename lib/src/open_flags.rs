// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flags of open(2), as the kernel has them: libc's O_LARGEFILE is 0 on 64-bit machines.

use crate::row::Cell;
use crate::row::Kind;
use crate::row::Value;

/// open(2)'s flags, from include/uapi/asm-generic/fcntl.h, widest first; the kernel's own are left out.
#[cfg(target_arch = "x86_64")]
const FLAGS: [(u64, &str); 16] = [
    (0o20200000, "O_TMPFILE"),
    (0o4010000, "O_SYNC"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o20000, "O_ASYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
];
/// As above, where arch/arm64/include/uapi/asm/fcntl.h differs.
#[cfg(target_arch = "aarch64")]
const FLAGS: [(u64, &str); 16] = [
    (0o20040000, "O_TMPFILE"),
    (0o4010000, "O_SYNC"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o20000, "O_ASYNC"),
    (0o200000, "O_DIRECT"),
    (0o40000, "O_DIRECTORY"),
    (0o100000, "O_NOFOLLOW"),
    (0o400000, "O_LARGEFILE"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
];
const O_PATH: u64 = 0o10000000;
const O_CREAT: u64 = 0o100;
const O_TMPFILE: u64 = 0o20000000;

/// The flags of an open, which are shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Cell for Flags {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(text(self.0))
    }
}

/// The mode of a file, which is shown in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Cell for Mode {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(format!("{:04o}", self.0 & 0o7777))
    }
}

/// The flags by name, as in `O_WRONLY|O_CREAT`; what has none, as a number in octal.
fn text(flags: u64) -> String {
    let mut rest = flags & !3;
    let access = match flags & 3 {
        _ if flags & O_PATH != 0 => "O_PATH",
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    };
    rest &= !O_PATH;
    let mut text = access.to_string();
    for (bits, name) in FLAGS {
        if rest & bits == bits {
            text.push('|');
            text.push_str(name);
            rest &= !bits;
        }
    }
    if rest != 0 {
        text.push_str(&format!("|{rest:#o}"));
    }
    text
}

/// Whether a file may be created, so that the mode means something.
pub fn creates(flags: u64) -> bool {
    flags & (O_CREAT | O_TMPFILE) != 0
}
