// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compiles `tools/<tool>/<tool>.bpf.c` of every tool into a skeleton in `OUT_DIR`, and writes the
//! table of tools from which the `kscope` command is made.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::SystemTime;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_cargo::SkeletonBuilder;

#[path = "build/object.rs"]
mod object;
#[path = "build/skeleton.rs"]
mod skeleton;

/// clang 14, Debian 12's default, loses the high half of 64-bit enumerators.
const OLDEST_CLANG: u32 = 16;

/// How hard zstd tries, on objects that are shipped and on others.
const COMPRESSION: [i32; 2] = [19, 1];

/// What all compilations share.
struct Build {
    root: PathBuf,
    out: PathBuf,
    clang: PathBuf,
    args: Vec<String>,
    /// For users, and not for those who look for what the verifier dislikes.
    is_shipped: bool,
}

fn main() -> Result<()> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    for input in ["build.rs", "build", "tools", "bpf", "vmlinux", "docs/runbooks"] {
        println!("cargo::rerun-if-changed={input}");
    }
    for name in ["CLANG", "BPF_CFLAGS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let arch = match var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => bail!("vmlinux/ has no kernel types for {other}"),
    };
    let mut args = vec![
        format!("-I{}", root.join("vmlinux").join(arch).display()),
        format!("-I{}", root.join("bpf").display()),
        // v3 makes LLVM emit fetching atomics, which 5.10 refuses.
        "-mcpu=v2".into(),
        "-Wall".into(),
        "-Werror".into(),
        "-fdebug-prefix-map=".to_owned() + &root.display().to_string() + "=.",
    ];
    args.extend(env::var("BPF_CFLAGS").unwrap_or_default().split_whitespace().map(String::from));
    let build = Build {
        out: PathBuf::from(var("OUT_DIR")?),
        clang: find_clang()?,
        args,
        is_shipped: var("PROFILE")? == "release",
        root,
    };

    let tools = tools(&build.root)?;
    write_if_changed(&build.out.join("tools.rs"), &tool_table(&build.root, &tools)?)?;

    let queue = Mutex::new(tools.into_iter().collect::<VecDeque<_>>());
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let next = queue.lock().map_err(|_| anyhow!("a compilation panicked"))?.pop_front();
                        match next {
                            Some(tool) => build.skeleton(&tool).with_context(|| format!("tool {tool}"))?,
                            None => return Ok(()),
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow!("a compilation panicked"))?)
    })
}

impl Build {
    /// Bring one tool's skeleton up to date. What the compiler says against the tool becomes a
    /// `compile_error!` in its skeleton, so that it stops this tool and no other.
    fn skeleton(&self, tool: &str) -> Result<()> {
        let source = self.root.join("tools").join(tool).join(format!("{tool}.bpf.c"));
        let object = self.out.join(format!("{tool}.bpf.o"));
        let depends = self.out.join(format!("{tool}.d"));
        let skeleton = self.out.join(format!("{tool}.skel.rs"));
        if self.up_to_date(&skeleton, &depends) {
            return Ok(());
        }

        let mut args = self.args.clone();
        args.extend(["-MMD".into(), "-MF".into(), depends.display().to_string()]);
        let mut builder = SkeletonBuilder::new();
        builder
            .source(&source)
            .obj(&object)
            .clang(&self.clang)
            .clang_args(&args)
            .reference_obj(true)
            // The name of no program: the skeleton is not for reading.
            .rustfmt("no-rustfmt");
        let built = builder
            .build()
            .and_then(|()| builder.generate(&skeleton))
            .and_then(|()| self.finish(tool, &object, &skeleton));
        if let Err(error) = built {
            // Without a list of inputs, the next build tries again.
            let _ = fs::remove_file(&depends);
            let text = format!("{}: {error:#}", source.display());
            fs::write(&skeleton, format!("compile_error!({text:?});\n"))?;
        }
        Ok(())
    }

    /// Compress the object, and bring the skeleton down to what the tool needs.
    fn finish(&self, tool: &str, object: &Path, skeleton: &Path) -> Result<()> {
        let mut elf = fs::read(object)?;
        if self.is_shipped {
            object::without_lines(&mut elf)?;
        }
        let sizes = object::sizes(&elf)?;
        let [hard, fast] = COMPRESSION;
        let compressed = object.with_extension("o.zst");
        fs::write(&compressed, zstd::bulk::compress(&elf, if self.is_shipped { hard } else { fast })?)?;
        let text = skeleton::trimmed(&fs::read_to_string(skeleton)?, tool, &compressed, &sizes)?;
        Ok(fs::write(skeleton, text)?)
    }

    fn up_to_date(&self, skeleton: &Path, depends: &Path) -> bool {
        let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let Some(made) = modified(skeleton) else { return false };
        let Ok(rule) = fs::read_to_string(depends) else { return false };
        let scripts = ["build.rs", "build/object.rs", "build/skeleton.rs"].map(|file| self.root.join(file));
        let inputs = rule
            .split_once(':')
            .map_or("", |(_, inputs)| inputs)
            .split_whitespace()
            .filter(|word| *word != "\\")
            .map(Path::new)
            .chain(scripts.iter().map(PathBuf::as_path));
        let newer = |time: Option<SystemTime>| time.is_none_or(|time| time > made);
        !inputs.map(modified).any(newer)
    }
}

/// The folders in tools/ that hold a tool: the only list of tools there is.
fn tools(root: &Path) -> Result<Vec<String>> {
    let mut tools = Vec::new();
    for entry in fs::read_dir(root.join("tools")).context("tools/")? {
        let entry = entry?;
        if entry.path().join("main.rs").exists() {
            let name =
                entry.file_name().into_string().map_err(|name| anyhow!("tools/{name:?}: not UTF-8"))?;
            tools.push(name);
        }
    }
    tools.sort();
    Ok(tools)
}

/// Every tool as a module of the `kscope` command, and the table of them.
fn tool_table(root: &Path, tools: &[String]) -> Result<String> {
    let mut text = String::new();
    for tool in tools {
        let main = root.join("tools").join(tool).join("main.rs");
        writeln!(text, "#[allow(dead_code)]\n#[path = {main:?}]\nmod {tool};")?;
    }
    let rows = tools.iter().map(|tool| format!("    &{tool}::TOOL,\n")).collect::<String>();
    writeln!(text, "static TOOLS: &[&kscope::tool::Entry] = &[\n{rows}];")?;
    let readmes = tools.iter().map(|tool| root.join("tools").join(tool).join("README.md"));
    let readmes = readmes.map(|path| format!("    {},\n", included(&path))).collect::<String>();
    writeln!(text, "static READMES: &[&str] = &[\n{readmes}];")?;
    let mut runbooks = Vec::new();
    for entry in fs::read_dir(root.join("docs/runbooks")).context("docs/runbooks")? {
        runbooks.push(entry?.path());
    }
    runbooks.sort();
    writeln!(text, "static RUNBOOKS: &[(&str, &str)] = &[")?;
    for path in runbooks {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(text, "    ({name:?}, {}),", included(&path))?;
    }
    writeln!(text, "];")?;
    Ok(text)
}

fn included(path: &Path) -> String {
    format!("include_str!({path:?})")
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// `$CLANG`, or the newest that is installed; at least [`OLDEST_CLANG`].
fn find_clang() -> Result<PathBuf> {
    if let Some(clang) = env::var_os("CLANG") {
        return Ok(PathBuf::from(clang));
    }
    let newest_first = (OLDEST_CLANG..40).rev().map(|version| format!("clang-{version}"));
    for name in newest_first.chain(["clang".into()]) {
        let Ok(output) = Command::new(&name).arg("-dumpversion").output() else { continue };
        let version = String::from_utf8_lossy(&output.stdout);
        let major = version.split('.').next().and_then(|major| major.trim().parse::<u32>().ok());
        if major.is_some_and(|major| major >= OLDEST_CLANG) {
            return Ok(PathBuf::from(name));
        }
    }
    bail!(
        "clang {OLDEST_CLANG} or newer is needed to compile the BPF programs: run `make setup`, or set CLANG"
    )
}

fn var(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set: this is a Cargo build script"))
}
