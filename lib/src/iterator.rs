// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that run over kernel objects.

use std::io;

use libbpf_rs::Iter;
use libbpf_rs::Link;
use libbpf_rs::Object;

use crate::Error;
use crate::libbpf::bpf_error;

/// The section of programs that run over kernel objects.
pub(crate) const ITERATOR: &str = "iter/";

/// A program that runs over kernel objects once, when it is asked to.
pub struct Iterator {
    file: Iter,
    _link: Link,
}

impl Iterator {
    /// Of the loaded program of this name, while that is still allowed: in the `attach` of
    /// [`Session::start`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(object: &Object, name: &str) -> Result<Self, Error> {
        let program = object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or_else(|| Error::System {
            what: name.into(),
            error: io::Error::new(io::ErrorKind::NotFound, "no such program"),
        })?;
        let link = program.attach().map_err(bpf_error(format!("attaching {name}")))?;
        let file = Iter::new(&link).map_err(bpf_error(format!("opening the iterator {name}")))?;
        Ok(Self { file, _link: link })
    }

    /// Run it over all objects.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(mut self) -> Result<(), Error> {
        let read = io::copy(&mut self.file, &mut io::sink());
        read.map(drop).map_err(|error| Error::System { what: "reading a BPF iterator".into(), error })
    }
}
