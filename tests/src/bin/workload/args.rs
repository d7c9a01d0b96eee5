// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--name value` pairs and words, taken out of the command line one by one.

use std::ffi::OsString;
use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};

pub struct Args(Vec<OsString>);

impl Args {
    pub fn new(words: impl Iterator<Item = OsString>) -> Self {
        Self(words.collect())
    }

    /// The value of option `name`, or `None` if it was not given.
    pub fn optional<T>(&mut self, name: &str) -> Result<Option<T>>
    where
        T: FromStr<Err: Display>,
    {
        let Some(at) = self.0.iter().position(|word| word == name) else {
            return Ok(None);
        };
        self.0.remove(at);
        if at == self.0.len() {
            bail!("{name} needs a value");
        }
        let value = utf8(self.0.remove(at))?;
        value.parse().map(Some).map_err(|error| anyhow!("{name} {value}: {error}"))
    }

    /// The value of option `name`.
    pub fn required<T>(&mut self, name: &str) -> Result<T>
    where
        T: FromStr<Err: Display>,
    {
        self.optional(name)?.with_context(|| format!("{name} is required"))
    }

    /// What is left once every option has been taken.
    pub fn words(self) -> Result<Vec<String>> {
        let words: Vec<String> = self.0.into_iter().map(utf8).collect::<Result<_>>()?;
        match words.iter().find(|word| word.starts_with('-')) {
            Some(option) => bail!("unknown option {option}"),
            None => Ok(words),
        }
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<()> {
        match self.words()?.first() {
            Some(word) => bail!("unexpected argument {word:?}"),
            None => Ok(()),
        }
    }
}

fn utf8(word: OsString) -> Result<String> {
    word.into_string().map_err(|word| anyhow!("{word:?} is not UTF-8"))
}
