// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the tests of the tools, which are in their rooms, and the promises that all of them are held to.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    let (tools, promises) = (here.join("../tools").canonicalize()?, here.join("contract/promises"));
    for folder in [&tools, &promises] {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    let mut modules = String::new();
    for tool in names(&tools)? {
        let test = tools.join(&tool).join("test.rs");
        if test.exists() {
            _ = writeln!(modules, "#[path = {test:?}]\nmod {tool};");
        }
    }
    write(&out.join("tools.rs"), &modules)?;
    let (mut modules, mut list) = (String::new(), String::new());
    for file in names(&promises)? {
        if let Some(name) = file.strip_suffix(".rs").filter(|name| *name != "mod") {
            _ = writeln!(modules, "#[path = {:?}]\nmod {name};", promises.join(&file));
            _ = writeln!(
                list,
                "    Promise {{ name: {name:?}, together: {name}::TOGETHER, applies: {name}::applies, check: {name}::check }},"
            );
        }
    }
    write(&out.join("promises.rs"), &format!("{modules}static PROMISES: &[Promise] = &[\n{list}];\n"))
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// A file that stays as it is makes nothing new.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) { Ok(()) } else { fs::write(path, text) }
}
