// SPDX-License-Identifier: Apache-2.0 OR MIT
//! See kscope::fuzzing::elf.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kscope::fuzzing::elf(bytes));
