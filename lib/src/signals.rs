// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT, SIGTERM and SIGHUP: the first asks the tool to finish, the second ends it at once.

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

extern "C" fn do_nothing(_: libc::c_int) {}

/// Whether it was ignored when the tool was started, as by nohup.
fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the kernel fills the action in, or fails and leaves it zero, which is a value of it too.
    let action = unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// Catch SIGINT and SIGTERM from now on, and SIGHUP unless it is ignored. SIGINT also where it is: a shell without job
/// control ignores it for what it starts in the background, from where a script ends the tool with it.
pub(crate) fn catch() -> nix::Result<()> {
    // Without SA_RESTART a wait ends when the signal comes.
    let action = SigAction::new(SigHandler::SigAction(on_signal), SaFlags::SA_SIGINFO, SigSet::empty());
    let hangup = (!is_ignored(Signal::SIGHUP)).then_some(Signal::SIGHUP);
    for signal in [Signal::SIGINT, Signal::SIGTERM].into_iter().chain(hangup) {
        // SAFETY: the handler touches atomics and calls _exit, nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    // A write beyond RLIMIT_FSIZE is to fail. Not ignored, which a command would inherit.
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, SigSet::empty());
    if !is_ignored(Signal::SIGXFSZ) {
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGXFSZ, &action) }?;
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
