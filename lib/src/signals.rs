// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT and SIGTERM: the first asks the tool to finish, the second ends it at once.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::sigaction;

static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Whether another process sent it, and not the terminal.
static WAS_SENT: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid one.
    WAS_SENT.store(unsafe { (*info).si_code } <= 0, Ordering::Relaxed);
    if RECEIVED.swap(signal, Ordering::Relaxed) != 0 {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// Catch SIGINT and SIGTERM from now on.
pub(crate) fn catch() -> nix::Result<()> {
    // Without SA_RESTART a wait ends when the signal comes.
    let action = SigAction::new(SigHandler::SigAction(on_signal), SaFlags::SA_SIGINFO, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler touches atomics and calls _exit, nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Whether the user asked the tool to finish.
pub fn stopped() -> bool {
    RECEIVED.load(Ordering::Relaxed) != 0
}

/// The signal that asked the tool to finish.
pub(crate) fn received() -> Option<Signal> {
    Signal::try_from(RECEIVED.load(Ordering::Relaxed)).ok()
}

/// That signal, if the command that the tool started has not got it too, as it has from the terminal.
pub(crate) fn to_pass_on() -> Option<Signal> {
    received().filter(|_| WAS_SENT.load(Ordering::Relaxed))
}
