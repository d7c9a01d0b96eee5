// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No program has more instructions, as the kernel has translated it, than are recorded.

use std::collections::BTreeMap;

use kscope_tests::bpf::Kind;
use kscope_tests::costs::{PROGRAM, check as check_costs};
use kscope_tests::process;
use libbpf_rs::btf::{Btf, types::Func};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};

use crate::shared::endless;

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

/// The programs that a process holds: the instructions of each by its function's name.
fn programs(pid: u32) -> BTreeMap<String, f64> {
    const BYTES: usize = 8;
    let held = process::bpf_objects(pid);
    let options = ProgInfoQueryOptions::default().include_xlated_prog_insns(true).include_func_info(true);
    let programs = ProgInfoIter::with_query_opts(options);
    let programs = programs.filter(|program| held.contains_key(&(Kind::Program, program.id)));
    let programs = programs.map(|program| {
        let btf = Btf::from_prog_id(program.id).unwrap();
        let function: Func<'_> = btf.type_by_id(program.func_info[0].type_id.into()).unwrap();
        let name = function.name().unwrap().to_str().unwrap().to_string();
        (name, (program.xlated_prog_insns.len() / BYTES) as f64)
    });
    programs.collect()
}

pub fn check(tool: &str) {
    let tracer = endless(tool).json();
    let found = programs(tracer.pid());
    assert!(!found.is_empty(), "{tool}");
    check_costs(tool, "instructions", &found, PROGRAM);
    tracer.stop().check();
}
