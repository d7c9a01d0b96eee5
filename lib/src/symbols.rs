// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names for addresses, of the kernel and of processes, by blazesym.

use std::fs;

use blazesym::MaybeDefault;
use blazesym::Pid;
use blazesym::symbolize::Input;
use blazesym::symbolize::Reason;
use blazesym::symbolize::Symbolized;
use blazesym::symbolize::Symbolizer;
use blazesym::symbolize::source::Kernel;
use blazesym::symbolize::source::Process;
use blazesym::symbolize::source::Source;
use procfs::process::MMapPath;

/// What an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The function, demangled; or why it has no name.
    pub name: Result<String, String>,
    /// The kernel module, executable or library.
    pub module: Option<String>,
    /// How far the address is from the function's beginning, in bytes; without a name, from the file's.
    pub offset: u64,
}

impl Symbol {
    fn unknown(reason: impl Into<String>) -> Self {
        Self { name: Err(reason.into()), module: None, offset: 0 }
    }
}

/// Finds symbols; it keeps what it read for the next question.
pub struct Symbols {
    symbolizer: Symbolizer,
    modules: Option<Vec<Module>>,
}

struct Module {
    name: String,
    start: u64,
    size: u64,
}

impl Symbols {
    /// With nothing read yet.
    pub fn new() -> Self {
        let symbolizer = Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false).build();
        Self { symbolizer, modules: None }
    }

    /// Symbols of kernel addresses.
    pub fn kernel(&mut self, addresses: &[u64]) -> Vec<Symbol> {
        if !kallsyms_readable() {
            let reason =
                "the kernel hides its symbols: CAP_SYSLOG, and kernel.kptr_restrict below 2, show them";
            return vec![Symbol::unknown(reason); addresses.len()];
        }
        // An image of the kernel brings source lines, which are not asked for, at a great cost.
        let kernel = Kernel { vmlinux: MaybeDefault::None, debug_syms: false, ..Kernel::default() };
        let mut symbols = self.find(&Source::Kernel(kernel), addresses);
        let modules = self.modules.get_or_insert_with(read_modules);
        for (symbol, address) in symbols.iter_mut().zip(addresses) {
            let module = modules.iter().find(|m| (m.start..m.start + m.size).contains(address));
            symbol.module = module.map(|module| module.name.clone());
        }
        symbols
    }

    /// Symbols of addresses in a process.
    pub fn process(&mut self, pid: u32, addresses: &[u64]) -> Vec<Symbol> {
        if pid == 0 {
            return vec![Symbol::unknown("the process is outside of this pid namespace"); addresses.len()];
        }
        // One that nobody has waited for yet has an empty list.
        if fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.is_empty())
            || !fs::exists(format!("/proc/{pid}/maps")).unwrap_or(false)
        {
            return vec![Symbol::unknown("the process has ended"); addresses.len()];
        }
        let mut symbols = self.find(&Source::Process(Process::new(Pid::from(pid))), addresses);
        // Without a name, the file and the place in it still tell something.
        if symbols.iter().any(|symbol| symbol.name.is_err()) {
            let maps = procfs::process::Process::new(pid.cast_signed()).and_then(|process| process.maps());
            let maps = maps.map(|maps| maps.0).unwrap_or_default();
            for (symbol, address) in
                symbols.iter_mut().zip(addresses).filter(|(symbol, _)| symbol.name.is_err())
            {
                let found = maps.iter().find(|map| (map.address.0..map.address.1).contains(address));
                if let Some((map, MMapPath::Path(path))) = found.map(|map| (map, &map.pathname)) {
                    symbol.module = Some(path.to_string_lossy().into_owned());
                    symbol.offset = address - map.address.0 + map.offset;
                }
            }
        }
        symbols
    }

    fn find(&self, source: &Source<'_>, addresses: &[u64]) -> Vec<Symbol> {
        let found = match self.symbolizer.symbolize(source, Input::AbsAddr(addresses)) {
            Ok(found) => found,
            Err(error) => return vec![Symbol::unknown(error.to_string()); addresses.len()],
        };
        let symbol = |found: Symbolized<'_>| match found {
            Symbolized::Sym(symbol) => Symbol {
                name: Ok(symbol.name.into_owned()),
                module: symbol.module.map(|module| module.to_string_lossy().into_owned()),
                offset: symbol.offset as u64,
            },
            Symbolized::Unknown(Reason::MissingSyms) => Symbol::unknown("the file has no symbols"),
            Symbolized::Unknown(Reason::UnknownAddr) => Symbol::unknown("no symbol covers it"),
            Symbolized::Unknown(Reason::Unmapped) => Symbol::unknown("not mapped any more"),
            Symbolized::Unknown(reason) => Symbol::unknown(reason.to_string()),
        };
        found.into_iter().map(symbol).collect()
    }
}

impl Default for Symbols {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the kernel shows addresses to us: else all are 0, and every name would be false.
fn kallsyms_readable() -> bool {
    use std::io::Read as _;
    let mut head = [0u8; 4096];
    let read = fs::File::open("/proc/kallsyms").and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    head[..read]
        .split(|b| *b == b'\n')
        .any(|line| line.iter().take_while(|b| **b != b' ').any(|b| *b != b'0'))
}

/// From /proc/modules: name, size, users, dependencies, state, address.
fn read_modules() -> Vec<Module> {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let start = u64::from_str_radix(words.get(5)?.trim_start_matches("0x"), 16).ok()?;
        Some(Module { name: (*words.first()?).into(), start, size: words.get(1)?.parse().ok()? })
    };
    text.lines().filter_map(parse).collect()
}
