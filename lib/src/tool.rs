// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a tool is to the rest of the suite, and the frame around each run.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap::Parser;
use clap::error::ErrorKind;

mod functions;
mod opened;
mod plan;
mod stacks;
mod summaries;
mod tracing;

use crate::Error;
use crate::bpf::Bpf;
use crate::bpf::Storage;
use crate::cgroup_paths;
use crate::cli;
use crate::cli::Shared;
use crate::command;
use crate::json;
use crate::row::RowInfo;
use crate::row::Rows;
use crate::say;
use crate::signals;
pub use opened::Opened;
pub use opened::Values;
pub use stacks::Totals;
pub use summaries::Histograms;
pub use summaries::Measures;
pub use summaries::Source;
pub use tracing::Done;
pub use tracing::Tracing;

/// A tool, made of its arguments.
pub trait Tool: Parser {
    /// What the suite knows of it.
    const INFO: Info;
    /// Its BPF object.
    type Bpf: Bpf;
    /// The kinds of rows that it prints.
    type Rows: Rows;

    /// Those of its arguments that the library acts on.
    fn shared(&self) -> Shared<'_>;

    /// Refuse what can be refused before anything is opened, and let arguments stand for others.
    ///
    /// # Errors
    /// [`Error::Usage`], above all.
    fn begin(&mut self) -> anyhow::Result<Begin> {
        Ok(Begin::Trace)
    }

    /// Trace, until the end.
    ///
    /// # Errors
    /// One sentence that says what to do.
    fn run(self, bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done>;
}

/// Whether there is something to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// There is.
    Trace,
    /// All that was asked for has been printed.
    Done,
}

/// What the suite knows of a tool.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    pub(crate) name: &'static str,
    subsystem: Subsystem,
    aliases: &'static [Alias],
}

/// Another name by which a tool may be called, and the arguments that it stands for.
pub type Alias = (&'static str, &'static [&'static str]);

impl Info {
    /// The name is that of the tool's folder, its binary and its BPF object.
    pub const fn new(name: &'static str, subsystem: Subsystem) -> Self {
        Self { name, subsystem, aliases: &[] }
    }

    /// The same, with other names.
    pub const fn aliases(mut self, aliases: &'static [Alias]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// The part of the system that a tool looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Subsystem {
    Applications,
    BlockIo,
    Cpu,
    FileSystems,
    Network,
    Processes,
    Security,
    SystemCalls,
}

impl Subsystem {
    /// As `kscope list` groups tools by it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applications => "applications",
            Self::BlockIo => "block I/O",
            Self::Cpu => "CPU",
            Self::FileSystems => "file systems",
            Self::Network => "network",
            Self::Processes => "processes",
            Self::Security => "security",
            Self::SystemCalls => "system calls",
        }
    }
}

/// A tool, as a table of tools holds it.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The part of the system that it looks at.
    pub subsystem: &'static str,
    /// Its other names.
    pub aliases: &'static [Alias],
    command: fn() -> Command,
    rows: fn() -> Vec<RowInfo>,
    run: fn(&Entry, &clap::ArgMatches) -> anyhow::Result<()>,
}

impl Entry {
    /// The tool `T`.
    pub const fn of<T: Tool>() -> Self {
        Self {
            name: T::INFO.name,
            subsystem: T::INFO.subsystem.name(),
            aliases: T::INFO.aliases,
            command: T::command,
            rows: T::Rows::infos,
            run: run::<T>,
        }
    }

    /// Its command line.
    pub fn command(&self) -> Command {
        cli::prepare((self.command)()).name(self.name).bin_name(self.name).version(env!("CARGO_PKG_VERSION"))
    }

    /// The question that it answers.
    pub fn question(&self) -> String {
        self.command().get_about().map(ToString::to_string).unwrap_or_default()
    }

    /// What it prints.
    pub fn rows(&self) -> Vec<RowInfo> {
        (self.rows)()
    }

    /// Run as the process's main function.
    pub fn main(&self) -> ExitCode {
        self.main_with(std::env::args_os())
    }

    /// Whether it is called so.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|(alias, _)| *alias == name)
    }

    /// [`Tool::main`] with these arguments, the program's name first.
    pub fn main_with(&self, args: impl IntoIterator<Item = OsString>) -> ExitCode {
        let mut args: Vec<OsString> = args.into_iter().collect();
        let called = args.first().and_then(|path| Path::new(path).file_name());
        if let Some((_, meant)) = self.aliases.iter().find(|(alias, _)| called == Some(OsStr::new(alias))) {
            args.splice(1..1, meant.iter().map(OsString::from));
        }
        let matches = match self.command().try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(error) => return clap_exit(self.name, &error),
        };
        match (self.run)(self, &matches) {
            Ok(()) => command::end().unwrap_or(ExitCode::SUCCESS),
            Err(error) => {
                let status = match error.downcast_ref::<Error>() {
                    Some(Error::ClosedPipe) => return command::end().unwrap_or(ExitCode::SUCCESS),
                    Some(Error::Command { status, .. }) => *status,
                    Some(Error::Usage(_)) => 2,
                    Some(Error::Lost(_)) => 3,
                    _ => 1,
                };
                say(&format!("{}: {error:#}", self.name));
                ExitCode::from(status)
            }
        }
    }
}

/// The static `TOOL` of a tool's arguments, for the table of tools, and the `main` that runs it.
#[macro_export]
macro_rules! tool {
    ($args:ty) => {
        /// The tool, for the table of tools.
        pub static TOOL: $crate::tool::Entry = $crate::tool::Entry::of::<$args>();

        /// Run it.
        pub fn main() -> std::process::ExitCode {
            TOOL.main()
        }
    };
}

fn run<T: Tool>(tool: &Entry, matches: &clap::ArgMatches) -> anyhow::Result<()> {
    let mut args = T::from_arg_matches(matches)?;
    if args.shared().common.json_schema {
        let mut stdout = io::stdout().lock();
        let schema = json::schema(tool.name, &tool.rows());
        return json::write_line(&mut stdout, &schema).map_err(|e| Error::output(e).into());
    }
    let is_set = |flag| matches!(matches.try_get_one::<bool>(flag), Ok(Some(true)));
    if matches.try_get_one::<bool>("print_cgroup").is_ok()
        && ["print_cgroup", "json", "csv"].into_iter().any(is_set)
    {
        cgroup_paths::show_cgroups();
    }
    if let Ok(Some(words)) = matches.try_get_many::<OsString>(cli::COMMAND) {
        command::give(words.cloned().collect())?;
    }
    signals::catch().map_err(Error::system("catching signals"))?;
    if args.begin()? == Begin::Done {
        return Ok(());
    }
    let mut storage = Storage::uninit();
    let opened = Opened::open(T::INFO.name, &T::Rows::infos(), args.shared(), &mut storage)?;
    args.run(opened).map(drop)
}

/// Help and versions go to stdout, errors to stderr as one sentence.
pub fn clap_exit(name: &str, error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone is no failure.
        _ = write!(io::stdout(), "{error}");
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        text.lines().for_each(say);
        return ExitCode::from(2);
    }
    let sentence = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let words: Vec<_> = sentence.split_whitespace().collect();
    say(&format!("{name}: {} (see {name} --help)", words.join(" ")));
    ExitCode::from(2)
}
