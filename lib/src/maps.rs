// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading maps whole.

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
        let value = value.map_err(failed)?;
        if let (Some((key, _)), Some((value, _))) = (record(&key), value.as_deref().and_then(record)) {
            entries.push((key, value));
        }
    }
    Ok(entries)
}

/// Every value of an array that has one for each CPU, summed up by `add`.
///
/// # Errors
/// The kernel's.
pub fn percpu_sums<V: Plain + Default>(map: &dyn MapCore, add: impl Fn(V, V) -> V) -> Result<Vec<V>, Error> {
    let sum = |index: u32| {
        let values = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).map_err(failed)?;
        let values = values.unwrap_or_default();
        Ok(values.iter().filter_map(|bytes| Some(record(bytes)?.0)).fold(V::default(), &add))
    };
    (0..map.max_entries()).map(sum).collect()
}

fn failed(error: libbpf_rs::Error) -> Error {
    Error::Bpf { what: "reading a map".into(), error, detail: String::new() }
}
