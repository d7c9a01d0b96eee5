// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `#[derive(Row)]`: of a struct's fields and their doc comments, what a tool prints. `kscope::row` says what the
//! attributes mean.

use proc_macro::TokenStream;
use syn::DeriveInput;
use syn::parse_macro_input;

mod attributes;
mod expand;

/// Implement `kscope::row::Fields`; and with `#[row(type = "...")]` `kscope::row::Row`.
#[proc_macro_derive(Row, attributes(row))]
pub fn derive_row(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::row(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}
