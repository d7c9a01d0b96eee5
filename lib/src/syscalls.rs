// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of system calls, by who makes them.

#[cfg(target_arch = "aarch64")]
use syscalls::aarch64::Sysno as Native;
#[cfg(target_arch = "aarch64")]
use syscalls::arm::Sysno as Compat;
#[cfg(target_arch = "x86_64")]
use syscalls::x86::Sysno as Compat;
#[cfg(target_arch = "x86_64")]
use syscalls::x86_64::Sysno as Native;

use crate::Kernel;

/// What a system call's number means depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abi {
    /// 64-bit callers.
    Native,
    /// 32-bit callers: i386 or Arm EABI.
    Compat,
    /// Callers of x86-64 with 32-bit pointers, whose numbers are not all those of the 64-bit ones.
    X32,
}

impl Abi {
    /// By the number that the programs have for it: that of an `enum` in the order of this one.
    pub fn of(number: u32) -> Self {
        [Self::Native, Self::Compat].get(number as usize).copied().unwrap_or(Self::X32)
    }

    /// As the tools print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "64-bit",
            Self::Compat => "32-bit",
            Self::X32 => "x32",
        }
    }
}

/// The call's name; nothing for a number that has none, or is too new to be known.
pub fn name(abi: Abi, number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    match abi {
        Abi::Native => Native::new(number).map(|call| call.name()),
        Abi::Compat => Compat::new(number).map(|call| call.name()),
        Abi::X32 => None,
    }
}

/// The names of all that 64-bit callers can make, in the order of their numbers.
pub fn all() -> impl Iterator<Item = (u32, &'static str)> {
    (0..1024).filter_map(|number| Some((number, name(Abi::Native, number)?)))
}

/// SYSCALL_EXEC of bpf/syscall.bpf.h: an execve or execveat, it is not known which.
const EXEC: i32 = -2;

/// What processes ask the kernel for, one kind of it or all of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// A system call, by its number, or one of the negative ones in bpf/syscall.bpf.h.
    Call(Abi, i32),
    /// An operation of io_uring, by its code.
    Uring(u8),
    /// All system calls of a process.
    CallsOf(u32),
    /// All operations of io_uring of a process.
    UringOf(u32),
}

impl Request {
    /// Its number, if it has one.
    pub fn number(self) -> Option<i32> {
        match self {
            Self::Call(_, number) => (number >= 0).then_some(number),
            Self::Uring(op) => Some(op.into()),
            Self::CallsOf(_) | Self::UringOf(_) => None,
        }
    }

    /// Of which callers a system call's number is.
    pub fn abi(self) -> Option<&'static str> {
        if let Self::Call(abi, _) = self { Some(abi.name()) } else { None }
    }

    /// The process, of all that is its.
    pub fn pid(self) -> Option<u32> {
        if let Self::CallsOf(pid) | Self::UringOf(pid) = self { Some(pid) } else { None }
    }

    /// How it is asked: `syscall` or `io_uring`.
    pub fn via(self) -> &'static str {
        if matches!(self, Self::Uring(_) | Self::UringOf(_)) { "io_uring" } else { "syscall" }
    }
}

/// Names of requests.
pub struct Names {
    uring_ops: Vec<(String, i64)>,
}

impl Names {
    /// With the kernel's own names of io_uring's operations.
    pub fn new(kernel: &Kernel) -> Self {
        Self { uring_ops: kernel.enumerators("io_uring_op").unwrap_or_default() }
    }

    /// The request's name, if it is known.
    pub fn name(&self, request: Request) -> Option<String> {
        match request {
            Request::Call(_, EXEC) => Some("execve or execveat".into()),
            Request::Call(abi, number) => name(abi, u32::try_from(number).ok()?).map(String::from),
            Request::Uring(op) => {
                let found = self.uring_ops.iter().find(|(_, value)| *value == i64::from(op));
                found.map(|(name, _)| name.trim_start_matches("IORING_OP_").to_lowercase())
            }
            Request::CallsOf(_) | Request::UringOf(_) => None,
        }
    }

    /// As tables show it: of whom it is, and never a name that it has not.
    pub fn shown(&self, request: Request) -> String {
        let unnamed =
            || request.number().map_or_else(|| "[no number]".into(), |number| format!("[{number}]"));
        let name = self.name(request).unwrap_or_else(unnamed);
        match request {
            Request::Call(Abi::Native, _) | Request::CallsOf(_) | Request::UringOf(_) => name,
            Request::Call(abi, _) => format!("{name} ({})", abi.name()),
            Request::Uring(_) => format!("io_uring {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_mean_different_things_to_different_callers() {
        assert_eq!(name(Abi::Compat, 1), Some("exit"));
        assert_eq!(name(Abi::Compat, 3), Some("read"));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(name(Abi::Native, 1), Some("write"));
        #[cfg(target_arch = "aarch64")]
        assert_eq!(name(Abi::Native, 64), Some("write"));
        assert_eq!(name(Abi::X32, 1), None);
        assert_eq!(name(Abi::Native, 100_000), None);
        assert!(all().any(|(_, name)| name == "openat"));
    }

    #[test]
    fn names_are_shown_with_their_callers() {
        let names = Names { uring_ops: vec![("IORING_OP_READV".into(), 1)] };
        for (request, shown) in [
            (Request::Call(Abi::Native, 435), "clone3"),
            (Request::Call(Abi::Native, 9999), "[9999]"),
            (Request::Call(Abi::Native, -1), "[no number]"),
            (Request::Call(Abi::Compat, 1), "exit (32-bit)"),
            (Request::Call(Abi::X32, 2), "[2] (x32)"),
            (Request::Call(Abi::Compat, EXEC), "execve or execveat (32-bit)"),
            (Request::Uring(1), "io_uring readv"),
            (Request::Uring(200), "io_uring [200]"),
            (Request::UringOf(200), "[no number]"),
        ] {
            assert_eq!(names.shown(request), shown);
        }
        assert_eq!(names.name(Request::Call(Abi::Native, 9999)), None);
    }
}
