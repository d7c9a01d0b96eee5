// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Behaviour tests, in one program, so that it is linked once. Those of a tool are in its room, tools/<tool>/test.rs, and
//! their names begin with the tool's.

mod command_line;
mod filters;
mod metrics;
mod output;
mod pages;
mod runbooks;

// One module a tool: tests/build.rs made it of tools/.
include!(concat!(env!("OUT_DIR"), "/tools.rs"));
