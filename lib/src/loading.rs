// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool's object: how it is opened and loaded.

use std::mem::MaybeUninit;

use libbpf_rs::ErrorKind;
use libbpf_rs::OpenObject;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;

use crate::Error;
use crate::caps;
use crate::kernel::Kernel;
use crate::kernel_types;
use crate::libbpf;
use crate::libbpf::bpf_error;
use crate::objects;
use crate::options::Common;

/// BPF_LOG_STATS of include/linux/bpf_verifier.h: what -v shows of each program, as the matrix records it.
const VERIFIER_STATISTICS: u32 = 4;

/// Open a tool's skeleton, once it is clear that it may be loaded at all.
///
/// # Errors
/// [`Error::Privilege`], or libbpf's.
pub fn open<'obj, B>(
    mut builder: B,
    storage: &'obj mut MaybeUninit<OpenObject>,
    common: &Common,
) -> Result<B::Output, Error>
where
    B: SkelBuilder<'obj>,
{
    libbpf::listen(common.verbose);
    caps::require()?;
    kernel_types::announce(builder.object_builder_mut())?;
    builder.open(storage).map_err(bpf_error("opening the BPF object"))
}

/// Load a tool's programs and maps.
///
/// # Errors
/// libbpf's, with its own explanation.
pub fn load<'obj, O>(mut open: O) -> Result<O::Output, Error>
where
    O: OpenSkel<'obj>,
{
    if libbpf::is_verbose() {
        open.open_object_mut().progs_mut().for_each(|mut program| program.set_log_level(VERIFIER_STATISTICS));
    }
    let loaded = open.load().map_err(load_error)?;
    objects::give_back();
    Ok(loaded)
}

fn load_error(error: libbpf_rs::Error) -> Error {
    if error.kind() != ErrorKind::PermissionDenied || !libbpf::has_warned("failed to create") {
        return bpf_error("loading the BPF programs")(error);
    }
    // Since 5.11 maps are no locked memory any more.
    let counts = Kernel::new().is_ok_and(|kernel| kernel.has_member("bpf_map", "memory"));
    if counts { Error::LockedMemory } else { caps::refused("bpf(2)", nix::errno::Errno::EPERM) }
}
