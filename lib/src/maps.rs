// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reading maps whole.

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;

use libbpf_rs::MapCore;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::Object;
use libbpf_rs::OpenObject;
use plain::Plain;

use crate::Error;
use crate::libbpf::bpf_error;
use crate::record::record;

/// The name of a map; build.rs makes a constant for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map(pub &'static str);

impl Map {
    /// A map of an object.
    ///
    /// # Errors
    /// libbpf's; or that there is none, in an object of another tool.
    pub fn of(self, object: &Object) -> Result<MapHandle, Error> {
        let found = object.maps().find(|map| map.name() == self.0);
        let found = found.ok_or_else(|| Error::Mistake(format!("there is no map {}", self.0)))?;
        MapHandle::try_from(&found).map_err(bpf_error(format!("the map {}", self.0)))
    }

    /// Every entry of a hash map that is there for the whole time of the reading.
    ///
    /// # Errors
    /// The kernel's; or that there is none, in an object of another tool.
    pub fn entries<K: Plain + Default, V: Plain + Default>(
        self,
        object: &Object,
    ) -> Result<Vec<(K, V)>, Error> {
        let found = object.maps().find(|map| map.name() == self.0);
        entries(&found.ok_or_else(|| Error::Mistake(format!("there is no map {}", self.0)))?)
    }

    /// Every value of an array that has one for each CPU, summed up by `add`.
    ///
    /// # Errors
    /// The kernel's; or that there is none, in an object of another tool.
    pub fn percpu_sums<V: Plain + Default>(
        self,
        object: &Object,
        add: impl Fn(V, V) -> V,
    ) -> Result<Vec<V>, Error> {
        let found = object.maps().find(|map| map.name() == self.0);
        percpu_sums(&found.ok_or_else(|| Error::Mistake(format!("there is no map {}", self.0)))?, add)
    }

    /// Give it its size.
    ///
    /// # Errors
    /// libbpf's; or that there is none, in an object of another tool.
    pub fn set_entries(self, object: &mut OpenObject, entries: u32) -> Result<(), Error> {
        if set_max_entries(object, self.0, entries)? {
            Ok(())
        } else {
            Err(Error::Mistake(format!("there is no map {}", self.0)))
        }
    }
}

/// Give a map its size. Whether there is one of this name.
///
/// # Errors
/// libbpf's.
pub(crate) fn set_max_entries(object: &mut OpenObject, map: &str, entries: u32) -> Result<bool, Error> {
    let Some(mut found) = object.maps_mut().find(|m| m.name() == map) else { return Ok(false) };
    found.set_max_entries(entries).map_err(bpf_error(format!("sizing the map {map}")))?;
    Ok(true)
}

fn failed(what: &str) -> impl FnOnce(libbpf_rs::Error) -> Error {
    |error| Error::Bpf { what: what.into(), error, detail: String::new() }
}

/// Every entry of a hash map that is there for the whole time of the reading.
///
/// # Errors
/// The kernel's.
pub(crate) fn entries<K: Plain + Default, V: Plain + Default>(
    map: &dyn MapCore,
) -> Result<Vec<(K, V)>, Error> {
    let mut entries = Vec::new();
    for key in map.keys() {
        // One that has gone meanwhile is none.
        if let Some(value) = map.lookup(&key, MapFlags::ANY).map_err(failed("reading a map"))? {
            entries.push((record(&key)?.0, record(&value)?.0));
        }
    }
    Ok(entries)
}

/// Every value of an array that has one for each CPU, summed up by `add`.
///
/// # Errors
/// The kernel's.
pub(crate) fn percpu_sums<V: Plain + Default>(
    map: &dyn MapCore,
    add: impl Fn(V, V) -> V,
) -> Result<Vec<V>, Error> {
    let sum = |index: u32| {
        let values =
            map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).map_err(failed("reading a map"))?;
        values.iter().flatten().try_fold(V::default(), |sum, bytes| Ok(add(sum, record(bytes)?.0)))
    };
    (0..map.max_entries()).map(sum).collect()
}

/// Two maps into which programs count in turns (bpf/turns.bpf.h): what they counted in an interval, all of it, once.
#[derive(Debug)]
pub struct Turns {
    turn: MapHandle,
    maps: [MapHandle; 2],
}

impl Turns {
    /// Those of an object, if it has any.
    ///
    /// # Errors
    /// libbpf's.
    pub(crate) fn of(object: &Object) -> Result<Option<Self>, Error> {
        if object.maps().all(|map| map.name() != "turn") {
            return Ok(None);
        }
        let [turn, first, next] = ["turn", "turn_a", "turn_b"].map(|map| Map(map).of(object));
        Ok(Some(Self { turn: turn?, maps: [first?, next?] }))
    }

    /// Give them their size.
    ///
    /// # Errors
    /// libbpf's; or that there are none.
    pub(crate) fn set_entries(object: &mut OpenObject, entries: u32) -> Result<(), Error> {
        ["turn_a", "turn_b"].into_iter().try_for_each(|map| Map(map).set_entries(object, entries))
    }

    /// What was counted since the last call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take<K: Plain + Default, V: Plain + Default>(&mut self) -> Result<Vec<(K, V)>, Error> {
        let next = self.maps[1].as_fd().as_raw_fd().to_ne_bytes();
        // The kernel returns from an update of a map of maps once no program runs that saw the map before
        // (maybe_wait_bpf_programs() in kernel/bpf/syscall.c).
        self.turn.update(&0u32.to_ne_bytes(), &next, MapFlags::ANY).map_err(failed("changing maps"))?;
        self.maps.swap(0, 1);
        let full = &self.maps[1];
        let entries = entries(full)?;
        let keys: Vec<Vec<u8>> = full.keys().collect();
        keys.iter().try_for_each(|key| full.delete(key)).map_err(failed("emptying a map"))?;
        Ok(entries)
    }
}
