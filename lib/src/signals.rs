// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT and SIGTERM: the first asks the tool to finish, the second ends it at once.

use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::signal::sigaction;

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    if RECEIVED.swap(signal, Ordering::Relaxed) != 0 {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// Catch SIGINT and SIGTERM from now on.
pub(crate) fn catch() -> nix::Result<()> {
    // Without SA_RESTART a wait ends when the signal comes.
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler touches an atomic and calls _exit, nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Whether the user asked the tool to finish.
pub fn stopped() -> bool {
    RECEIVED.load(Ordering::Relaxed) != 0
}
