// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `kscope` command.
#![allow(clippy::unwrap_used)]

use kscope_tests::Run;
use kscope_tests::bytes::assert_harmless;

#[test]
fn nonsense_to_kscope_is_refused() {
    for words in [&["no-such-tool"][..], &["--no-such-option"], &["list", "abc"], &["\u{1b}[2J\n"], &[""]] {
        let ended = Run::kscope(words).output();
        let sentence = ended.refusal(2);
        assert_harmless(&format!("kscope {words:?}: stderr"), sentence.as_bytes());
    }
}
