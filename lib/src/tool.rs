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

use crate::Error;
use crate::cli;
use crate::cli::Common;
use crate::command;
use crate::escape::escape;
use crate::json;
use crate::names;
use crate::row::RowInfo;
use crate::signals;

/// A tool, made of its arguments.
pub trait Trace: Parser {
    /// The tool's name: that of its folder, its binary and its BPF object.
    const NAME: &'static str;
    /// The part of the kernel that it looks at, as `kscope list` groups it.
    const SUBSYSTEM: &'static str;
    /// Other names by which it may be called, and the arguments that each stands for.
    const ALIASES: &'static [(&'static str, &'static [&'static str])] = &[];

    /// The options of every tool.
    fn common(&self) -> &Common;

    /// The kinds of rows that it prints.
    fn rows() -> Vec<RowInfo>;

    /// Trace, until the end.
    ///
    /// # Errors
    /// One sentence that says what to do.
    fn run(self) -> anyhow::Result<()>;
}

/// A tool, as a table of tools holds it.
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// The part of the kernel that it looks at.
    pub subsystem: &'static str,
    /// Its other names, each with the arguments that it stands for.
    pub aliases: &'static [(&'static str, &'static [&'static str])],
    command: fn() -> Command,
    rows: fn() -> Vec<RowInfo>,
    run: fn(&Tool, &clap::ArgMatches) -> anyhow::Result<()>,
}

impl Tool {
    /// The tool `T`.
    pub const fn of<T: Trace>() -> Self {
        Self {
            name: T::NAME,
            subsystem: T::SUBSYSTEM,
            aliases: T::ALIASES,
            command: T::command,
            rows: T::rows,
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
        pub static TOOL: $crate::Tool = $crate::Tool::of::<$args>();

        /// Run it.
        pub fn main() -> std::process::ExitCode {
            TOOL.main()
        }
    };
}

fn run<T: Trace>(tool: &Tool, matches: &clap::ArgMatches) -> anyhow::Result<()> {
    let args = T::from_arg_matches(matches)?;
    if args.common().json_schema {
        let mut stdout = io::stdout().lock();
        let schema = json::schema(tool.name, &tool.rows());
        return json::write_line(&mut stdout, &schema).map_err(|e| Error::output(e).into());
    }
    let is_set = |flag| matches!(matches.try_get_one::<bool>(flag), Ok(Some(true)));
    if matches.try_get_one::<bool>("print_cgroup").is_ok()
        && ["print_cgroup", "json", "csv"].into_iter().any(is_set)
    {
        names::show_cgroups();
    }
    if let Ok(Some(words)) = matches.try_get_many::<OsString>(cli::COMMAND) {
        command::give(words.cloned().collect())?;
    }
    signals::catch().map_err(Error::system("catching signals"))?;
    args.run()
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

/// Say something on stderr: one line, harmless to a terminal, and no panic where stderr is closed.
pub fn say(text: &str) {
    _ = writeln!(io::stderr(), "{}", escape(text.as_bytes()));
}
