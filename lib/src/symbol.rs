// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is known of an address.

/// Why an address has no name.
pub(crate) type Why = &'static str;

/// What an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The function, demangled; or why it has no name.
    pub name: Result<String, String>,
    /// The kernel module, executable or library.
    pub module: Option<String>,
    /// How far the address is from the function's beginning, in bytes; without a name, from the file's.
    pub offset: u64,
    /// The functions that the compiler put into that one at this address, each called by the one before it.
    pub inlined: Vec<String>,
}

impl Symbol {
    pub(crate) fn unknown(reason: impl Into<String>) -> Self {
        Self { name: Err(reason.into()), module: None, offset: 0, inlined: Vec::new() }
    }
}
