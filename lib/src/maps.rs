// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading hash maps whole.

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use plain::Plain;

use crate::Error;
use crate::record;

/// Every entry of a hash map that is there for the whole time of the reading.
///
/// # Errors
/// The kernel's.
pub fn entries<K: Plain + Default, V: Plain + Default>(map: &dyn MapCore) -> Result<Vec<(K, V)>, Error> {
    let mut entries = Vec::new();
    for key in map.keys() {
        let value = map.lookup(&key, MapFlags::ANY);
        let value = value.map_err(|error| Error::Bpf {
            what: "reading a map".into(),
            error,
            detail: String::new(),
        })?;
        if let (Some((key, _)), Some((value, _))) = (record(&key), value.as_deref().and_then(record)) {
            entries.push((key, value));
        }
    }
    Ok(entries)
}
