// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What libbpf says, and what it means when a call of it fails.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use libbpf_rs::PrintLevel;

use crate::Error;
use crate::say;

static VERBOSE: AtomicBool = AtomicBool::new(false);
/// What libbpf warned of last: the cause, when a load fails.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Listen to libbpf from now on, and pass on what it says, if that is wanted.
pub(crate) fn listen(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    libbpf_rs::set_print(Some((PrintLevel::Debug, on_print)));
}

pub(crate) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

fn on_print(level: PrintLevel, text: String) {
    if is_verbose() {
        text.lines().for_each(say);
    }
    if matches!(level, PrintLevel::Warn)
        && let Ok(mut warnings) = WARNINGS.lock()
    {
        warnings.extend(text.lines().map(String::from));
    }
}

/// Whether libbpf has warned so since the last error.
pub(crate) fn has_warned(of: &str) -> bool {
    WARNINGS.lock().is_ok_and(|warnings| warnings.iter().any(|line| line.contains(of)))
}

/// Where securityfs is not mounted, nobody can say.
fn locked_down() -> bool {
    let state = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    state.contains("[confidentiality]")
}

/// A failed call of libbpf, with what was tried.
pub(crate) fn bpf_error(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Error {
    let what = what.into();
    move |error| {
        let warnings = WARNINGS.lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default();
        // Of older kernels (5.10, 6.1) the verifier does not know the helper then.
        let refused = ["cannot use helper bpf_probe_read", "unknown func bpf_probe_read"];
        let is_refused = |line: &String| refused.iter().any(|sentence| line.contains(sentence));
        if locked_down() && warnings.iter().any(is_refused) {
            return Error::Lockdown;
        }
        let first = warnings.iter().find_map(|line| line.strip_prefix("libbpf: ")).unwrap_or_default();
        // Above its statistics, the verifier says what it could not accept.
        let statistics = warnings.iter().position(|line| line.starts_with("processed "));
        let verifier =
            statistics.and_then(|at| warnings.get(at.checked_sub(1)?)).map(|line| format!(": {line}"));
        Error::Bpf { what, error, detail: first.to_string() + &verifier.unwrap_or_default() }
    }
}
