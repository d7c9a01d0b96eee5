// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is said on stderr.

use std::io;
use std::io::Write as _;

use crate::escape::escape;

/// Say something on stderr: one line, harmless to a terminal, and no panic where stderr is closed.
pub fn say(text: &str) {
    _ = writeln!(io::stderr(), "{}", escape(text.as_bytes()));
}
