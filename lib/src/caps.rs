// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Privilege: ask for what is needed with one sentence, give up the rest once attached.

use caps::CapSet;
use caps::Capability;
use caps::CapsHashSet;

use crate::Error;

/// Check that BPF programs can be loaded and attached.
///
/// # Errors
/// [`Error::Privilege`] names the missing capabilities.
pub(crate) fn require() -> Result<(), Error> {
    let effective = caps::read(None, CapSet::Effective).map_err(|e| Error::Capabilities(e.to_string()))?;
    if effective.contains(&Capability::CAP_SYS_ADMIN) {
        return Ok(());
    }
    let missing: Vec<String> = [Capability::CAP_BPF, Capability::CAP_PERFMON]
        .into_iter()
        .filter(|capability| !effective.contains(capability))
        .map(|capability| capability.to_string())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Privilege(missing.join(" and "))) }
}

/// Give up every capability that is not in `keep`, for good.
///
/// `still_works` tells whether the tool can read its maps without CAP_BPF: before Linux 5.19 it can not
/// where unprivileged BPF is off, and then that capability is kept.
pub(crate) fn give_up(keep: &[Capability], still_works: impl Fn() -> bool) -> Result<(), Error> {
    let error = |e: caps::errors::CapsError| Error::Capabilities(e.to_string());
    let permitted = caps::read(None, CapSet::Permitted).map_err(error)?;
    let mut kept: CapsHashSet = permitted.iter().copied().filter(|c| keep.contains(c)).collect();
    caps::set(None, CapSet::Effective, &kept).map_err(error)?;
    if !still_works() {
        // CAP_SYS_ADMIN stands in for CAP_BPF where a process has only that.
        let needed = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];
        kept.extend(needed.into_iter().find(|c| permitted.contains(c)));
        caps::set(None, CapSet::Effective, &kept).map_err(error)?;
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(error)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(error)?;
    nix::sys::prctl::set_no_new_privs().map_err(|e| Error::Capabilities(e.to_string()))
}
