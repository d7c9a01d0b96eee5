// SPDX-License-Identifier: Apache-2.0 OR MIT
//! It takes little memory, also after many events.

use kscope_tests::{Tracer, Workload, bpf, process, wait_until};
use tempfile::TempDir;

use crate::shared::{disk_io, endless};

pub const TOGETHER: bool = false;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    const MIB: u64 = 1 << 20;
    /// A few pages for what the kernel keeps beside the data.
    const MAPS: u64 = 10 * MIB + (16 << 10);
    /// Without the program's own file, of which all tools share the pages and the kernel drops what it needs. The
    /// data of a mapped ring buffer counts twice: that is how often it is mapped.
    const PROCESS: u64 = 15 * MIB;
    let check = |tool: &str, tracer: &mut Tracer, when: &str| {
        tracer.assert_running();
        let pid = tracer.pid();
        let maps = process::bpf_objects(pid).into_iter().filter(|((kind, _), _)| *kind == bpf::Kind::Map);
        let maps: u64 = maps.map(|(_, bytes)| bytes).sum();
        assert!(maps > 0 && maps <= MAPS, "{tool}, {when}: {maps} bytes of maps");
        // While it reads the symbols of a process that has ended, their file's pages count too.
        let process = wait_until(&format!("{tool}, {when}, to be small"), || {
            Some(process::resident_without_program(pid)).filter(|bytes| *bytes <= PROCESS)
        });
        assert!(process > 0, "{tool}, {when}");
        println!("{tool}, {when}: maps {maps}, process {process} bytes");
    };
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut tracer = endless(tool).json();
    check(tool, &mut tracer, "attached");
    Workload::start(["open-loop", "--dir", path, "--count", "20000"]).finish();
    Workload::start(["exec-loop", "--count", "100", "--args", "8"]).finish();
    let (io, _device) = disk_io("200", &[]);
    io.finish();
    check(tool, &mut tracer, "after a workload");
    tracer.stop().check();
}
