// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One system call, fixed beforehand: making it is that call and nothing else.

use libc::c_long;

#[derive(Clone, Copy)]
pub struct Call {
    nr: c_long,
    pub args: [usize; 6],
    /// Through the entry of 32-bit programs.
    pub compat: bool,
}

impl Call {
    /// A call by its native number; missing arguments are zero.
    pub fn native<const N: usize>(nr: c_long, args: [usize; N]) -> Self {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&args);
        Self { nr, args: all, compat: false }
    }

    /// A call by its i386 number; every pointer must be one of [`crate::compat`].
    #[cfg(target_arch = "x86_64")]
    pub fn compat<const N: usize>(nr: u32, args: [usize; N]) -> Self {
        Self { compat: true, ..Self::native(nr.into(), args) }
    }

    /// Makes the call: its result, or minus the errno. Async-signal-safe.
    ///
    /// # Safety
    ///
    /// The arguments are what that system call expects, and what they point to is still there.
    pub unsafe fn make(&self) -> i32 {
        let args = self.args;
        #[cfg(target_arch = "x86_64")]
        if self.compat {
            let [a, b, c, d, e, _] = args.map(|arg| arg as u32);
            // SAFETY: the caller vouches for the arguments; pointers fit, descriptors keep their low half.
            return unsafe { crate::compat::int80(self.nr as u32, [a, b, c, d, e]) };
        }
        // SAFETY: the caller vouches for the arguments.
        let result = unsafe { libc::syscall(self.nr, args[0], args[1], args[2], args[3], args[4], args[5]) };
        if result < 0 {
            // SAFETY: errno's address is always valid.
            return -unsafe { *libc::__errno_location() };
        }
        result as i32
    }
}
