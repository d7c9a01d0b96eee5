// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The oracle of the behaviour tests: does an exactly known list of things and reports each.
//!
//! Every subcommand prints `{"ready":true,...}`, waits for a line on stdin, acts, prints one JSON object per
//! action and `{"done":true,...}`, and exits when stdin closes. All that an action needs (files, memory, rings)
//! is made before `ready`, so that a tracer attached between `ready` and `go` sees nothing but the actions.
//!
//! Exit status: 0 done, 1 the workload itself failed, 77 this kernel does not offer what was asked for.

mod args;
mod call;
mod calls;
mod capability;
mod cheap_loops;
mod comm;
#[cfg(target_arch = "x86_64")]
mod compat;
mod cpu;
mod exec;
mod exec_loop;
mod exec_plan;
mod exit;
mod files;
mod forks;
mod io;
mod jit;
mod lookup;
mod memory;
mod net;
mod open;
mod open_loop;
mod open_plan;
mod pace;
mod plugins;
mod protocol;
mod runq;
mod sleeps;
mod tcp_connect;
mod tcp_life;
mod uring;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::Args;
use crate::protocol::Refused;

const USAGE: &str = "usage: workload open --dir DIR WAY...
       workload open-loop --dir DIR --count N [--rate R]
       workload exec --dir DIR WAY...
       workload exec-loop --count N [--rate R] [--args K] [--path PATH]
       workload exit --dir DIR WAY...
       workload io --path FILE_OR_DEVICE --count N --bs BYTES --mode read|write|discard|flush [--each true] [--comm HEX]
       workload lookup FUNCTION:HOST...
       workload lookup-loop --until FILE [--fork true]
       workload map-many FILE FOLDER COUNT
       workload calls
       workload call-loop --count N
       workload switch-loop --count N --cpu C
       workload forks --count N
       workload runq --cpu C --count N [--namespace pid]
       workload files --dir DIR [--count N] ACTION...
       workload syscalls --seconds S | --cpu-seconds S --cpu C
       workload burn --seconds S | --cpu-seconds S --cpu C
       workload jit --cpu-seconds S [--name NAME]
       workload plugins --way unmap|smaller|fixed --dir DIR --cpu-seconds S --sleeps N [--noise N]
       workload sleeps --threads N --us US[,US...]
       workload capability [--count N] [--user-ns 1] CALL...
       workload comm HEX
       workload tcp-life WAY...
       workload tcp-connect [--netns true] WAY...
       workload tcp-loop --count N [--rate R] [--comm HEX]
       workload noop ...";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let subcommand = words.next().unwrap_or_default();
    if subcommand == "noop" {
        return ExitCode::SUCCESS;
    }
    match run(&subcommand.to_string_lossy(), Args::new(words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload: {error:#}");
            ExitCode::from(if error.is::<Refused>() { 77 } else { 1 })
        }
    }
}

fn run(subcommand: &str, args: Args) -> Result<()> {
    match subcommand {
        "open" => open::run(args),
        "open-loop" => open_loop::run(args),
        "exec" => exec::run(args),
        "exec-loop" => exec_loop::run(args),
        "exit" => exit::run(args),
        "exit-child" => exit::child(args),
        "files" => files::run(args),
        "io" => io::run(args),
        "lookup" => lookup::run(args),
        "lookup-loop" => lookup::run_loop(args),
        "map-many" => lookup::map_many(args),
        "syscalls" => cpu::syscalls(args),
        "burn" => cpu::burn(args),
        "calls" => calls::run(args),
        "call-loop" => cheap_loops::calls(args),
        "switch-loop" => cheap_loops::switches(args),
        "forks" => forks::run(args),
        "runq" => runq::run(args),
        "capability" => capability::run(args),
        "comm" => comm::run(args),
        "tcp-life" => tcp_life::run(args),
        "tcp-connect" => tcp_connect::run(args),
        "tcp-loop" => net::run_loop(args),
        "jit" => jit::run(args),
        "plugins" => plugins::run(args),
        "sleeps" => sleeps::run(args),
        _ => bail!("unknown subcommand {subcommand:?}\n{USAGE}"),
    }
}
