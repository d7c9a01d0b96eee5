// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The pages that people read.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

const WIDTH: usize = 100;
/// What plain technical English says otherwise.
const WORDS: [&str; 8] = [
    "anew",
    "dearer",
    "gives up all",
    "needs no more",
    "nobody is asked",
    "whoever",
    "so many of",
    "thereof",
];
/// Made by programs, of tables.
const GENERATED: [&str; 2] = ["docs/kernels.md", "docs/performance.md"];

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("docs"), root.join("tools")];
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root.join(name)).into();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    pages.retain(|page| !GENERATED.iter().any(|name| page.ends_with(name)));
    pages
}

/// The lines of a page with their numbers, but for tables and what is shown as it was typed or printed.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        if !is_code && !is_fence && !line.starts_with('|') {
            lines.push((number, line));
        }
    }
    lines
}

#[test]
fn prose_is_in_short_lines_of_usual_words() {
    let mut wrong = Vec::new();
    let pages = pages();
    assert!(pages.len() > 30, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (number, line) in prose(&text) {
            let lower = line.to_lowercase();
            let is_word = |word: &&&str| {
                let mut found = lower.match_indices(**word);
                found.any(|(at, _)| !lower[..at].ends_with(char::is_alphanumeric))
            };
            let word = WORDS.iter().find(is_word);
            if line.chars().count() > WIDTH || word.is_some() {
                wrong.push(format!("{}:{number}: {word:?} {line}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
