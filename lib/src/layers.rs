// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The layers of docs/architecture.md hold: imports run downwards, and nowhere in a circle.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What the crate's root names, and the module that it is of.
const AT_ROOT: [(&str, &str); 6] = [
    ("Error", "error"),
    ("Hooks", "hooks"),
    ("Kernel", "kernel"),
    ("Out", "out"),
    ("Screen", "screen"),
    ("clap_exit", "tool"),
];
/// It is about all of them.
const NOT_LAYERED: [&str; 3] = ["lib", "fuzzing", "layers"];

/// The modules of the crate, by path as in `session::watch`, and the text of each without comments and tests.
fn modules(folder: &Path, of: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
        let path = format!("{of}{name}");
        if entry.path().is_dir() {
            modules(&entry.path(), &format!("{path}::"), found);
        } else if !NOT_LAYERED.contains(&path.as_str()) {
            let text = fs::read_to_string(entry.path()).unwrap();
            let text = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            found.insert(path, text.lines().filter(is_code).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The paths behind each `prefix` in a text, `["session", "watch", "Watch"]`.
fn paths<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    text.match_indices(prefix)
        // What a macro writes `$crate` is written in a tool.
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$'))
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            rest[..end].split("::").collect()
        })
}

/// The module of the crate that a path leads to.
fn named(path: &[&str], modules: &BTreeMap<String, String>) -> Option<String> {
    let first = AT_ROOT.iter().find(|(name, _)| path.first() == Some(name)).map(|(_, module)| *module);
    let whole: Vec<&str> =
        first.into_iter().chain(path.iter().skip(usize::from(first.is_some())).copied()).collect();
    (1..=whole.len()).rev().map(|length| whole[..length].join("::")).find(|path| modules.contains_key(path))
}

/// What each module imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut all);
    let of = |(module, text): (&String, &String)| {
        let parent: Vec<&str> =
            module.rsplit_once("::").into_iter().flat_map(|(parent, _)| parent.split("::")).collect();
        let from_root = paths(text, "crate::");
        let from_parent = paths(text, "super::").map(|path| parent.iter().copied().chain(path).collect());
        let from_here = paths(text, "use ").map(|path| module.split("::").chain(path).collect());
        let all_paths: Vec<Vec<&str>> = from_root.chain(from_parent).chain(from_here).collect();
        let imported = all_paths.iter().filter_map(|path| named(path, &all)).filter(|other| other != module);
        (module.clone(), imported.collect())
    };
    all.iter().map(of).collect()
}

/// The number of each module's layer, the lowest first.
fn layers() -> BTreeMap<String, usize> {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md")).unwrap();
    let table = text.split("| layer | modules of `lib/src` |\n").nth(1).expect("a table of layers");
    let rows: Vec<&str> = table.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    let mut layers = BTreeMap::new();
    for (layer, row) in rows.iter().rev().enumerate() {
        for module in row.split('`').skip(1).step_by(2) {
            assert_eq!(layers.insert(module.to_string(), layer), None, "{module} is in two layers");
        }
    }
    layers
}

#[test]
fn imports_run_downwards() {
    let (imports, layers) = (imports(), layers());
    let root = |path: &str| path.split("::").next().unwrap().to_string();
    let modules: BTreeSet<String> = imports.keys().map(|path| root(path)).collect();
    assert_eq!(modules, layers.keys().cloned().collect(), "modules, and those of docs/architecture.md");
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 300, "{imports:?}");
    for (module, imported) in &imports {
        let upwards = imported.iter().find(|other| layers[&root(other)] > layers[&root(module)]);
        assert_eq!(upwards, None, "imported by {module}, which is in a lower layer");
    }
}

#[test]
fn no_module_imports_itself_in_a_circle() {
    let mut left = imports();
    // Those go that import none of the others, until that is nobody or they are all in circles or above one.
    loop {
        let modules: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, imported| imported.iter().any(|other| modules.contains(other)));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}
