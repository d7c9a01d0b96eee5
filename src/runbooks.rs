// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runbooks of docs/runbooks: from a symptom, through tools, to a decision.

use crate::RUNBOOKS;
use crate::find;

/// A runbook.
#[derive(Clone, Copy)]
pub struct Runbook {
    /// Its file's name, without the ending.
    pub name: &'static str,
    /// Its text, Markdown.
    pub text: &'static str,
}

impl Runbook {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        RUNBOOKS.iter().map(|(name, text)| Self { name, text })
    }

    /// What the reader has noticed: the title.
    pub fn symptom(self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// The tools that its commands run, in their order.
    pub fn tools(self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for command in commands(self.text) {
            for tool in command.split_whitespace().filter_map(find) {
                if !names.contains(&tool.name) {
                    names.push(tool.name);
                }
            }
        }
        names
    }
}

/// The lines in blocks of code that begin with root's prompt.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter_map(move |line| {
        code ^= line.starts_with("```");
        line.strip_prefix("# ").filter(|_| code)
    })
}
