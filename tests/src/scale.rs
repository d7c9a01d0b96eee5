// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How much is done where that does not matter.

/// So many times; a tenth of that on a slow machine, as `$KSCOPE_SLOW` says.
pub fn times(count: usize) -> usize {
    if is_slow() { count.div_ceil(10) } else { count }
}

/// Whether this machine is slow, as `$KSCOPE_SLOW` says: so slow that what takes no time elsewhere counts.
pub fn is_slow() -> bool {
    std::env::var_os("KSCOPE_SLOW").is_some()
}
