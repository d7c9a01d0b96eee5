// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manual pages, made of what the tools say of themselves: clap's definition, the rows' fields, and the README.

use std::io::Write;

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;
use kscope::row::Field;
use kscope::tool::Entry;
use pulldown_cmark::Event;
use pulldown_cmark::HeadingLevel;
use pulldown_cmark::Options;
use pulldown_cmark::Parser;
use pulldown_cmark::Tag;
use pulldown_cmark::TagEnd;
use roff::Inline;
use roff::Roff;
use roff::bold;
use roff::italic;
use roff::roman;

const EXIT_STATUS: [(&str, &str); 4] = [
    ("0", "It did what it should, also if Ctrl-C or SIGTERM ended it."),
    ("1", "It failed: one sentence on stderr says why, and what to do."),
    ("2", "The options or arguments are wrong."),
    ("3", "With --strict: events were lost."),
];

/// Print the page of a tool, whose README.md is `readme`.
pub fn tool(out: &mut dyn Write, tool: &Entry, readme: &str) -> Result<()> {
    // One section for all options, whatever --help puts above them.
    let command = tool.command().bin_name(format!("kscope {}", tool.name));
    let command = command.mut_args(|arg| arg.help_heading(None::<&str>));
    let man = man(command, &format!("kscope-{}", tool.name));
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    sections(out, readme, &["DESCRIPTION"])?;
    man.render_options_section(out)?;
    fields(out, tool)?;
    sections(out, readme, &["EXAMPLES", "OVERHEAD", "HOOKS", "LIMITS"])?;
    exit_status(out)?;
    let text = section(readme, "SEE ALSO").into_iter().filter_map(|event| match event {
        Event::Text(text) => Some(text.to_string()),
        _ => None,
    });
    let text = text.collect::<Vec<_>>().join(" ");
    let names = text.split([',', ' ']).filter(|name| !name.is_empty());
    see_also(out, std::iter::once("kscope".into()).chain(names.map(|name| format!("kscope-{name}"))))
}

/// Print the page of the `kscope` command.
pub fn kscope(out: &mut dyn Write, command: Command, tools: &[&'static Entry]) -> Result<()> {
    let commands: Vec<_> = command.get_subcommands().cloned().collect();
    let man = man(command, "kscope");
    man.render_title(out)?;
    man.render_name_section(out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for (i, words) in ["COMMAND", "TOOL"].into_iter().enumerate() {
        if i > 0 {
            roff.control("br", []);
        }
        roff.text([bold("kscope "), italic(words), roman(" [options]")]);
    }
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "Each tool answers one question about a running Linux kernel, by small programs that the kernel checks and \
         runs itself (eBPF). kscope holds them all in one file, and is any of them if it is called by its name.",
    )]);
    roff.control("SH", ["COMMANDS"]);
    for command in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        entry(&mut roff, [bold(command.get_name())], [roman(about)]);
    }
    entry(&mut roff, [italic("TOOL")], [roman("Run this tool; each has a page of its own.")]);
    roff.control("SH", ["TOOLS"]);
    for tool in tools {
        entry(&mut roff, [bold(tool.name)], [roman(tool.question())]);
    }
    roff.to_writer(out)?;
    exit_status(out)?;
    see_also(out, tools.iter().map(|tool| format!("kscope-{}", tool.name)))
}

fn man(command: Command, name: &str) -> Man {
    let version = env!("CARGO_PKG_VERSION");
    Man::new(command.display_name(name))
        .title(name.to_uppercase())
        .section("8")
        .source(format!("kscope {version}"))
        .manual("kscope")
}

/// A term, and what it means.
fn entry(roff: &mut Roff, term: impl IntoIterator<Item = Inline>, text: impl IntoIterator<Item = Inline>) {
    roff.control("TP", []);
    roff.text(term.into_iter().collect::<Vec<_>>());
    roff.text(text.into_iter().collect::<Vec<_>>());
}

/// What the rows hold: the columns of the table, and the keys of the JSON.
fn fields(out: &mut dyn Write, tool: &Entry) -> Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["FIELDS"]);
    for row in tool.rows() {
        roff.control("SS", [format!("{} of --json", row.name).as_str()]);
        for Field { key, title, help, .. } in row.fields {
            let term = match (*title, *key) {
                (title, "") => vec![bold(title), roman(" (in tables)")],
                ("", key) => vec![bold(key)],
                (title, key) => vec![bold(key), roman(", column "), bold(title)],
            };
            entry(&mut roff, term, [roman(*help)]);
        }
    }
    Ok(roff.to_writer(out)?)
}

fn exit_status(out: &mut dyn Write) -> Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    EXIT_STATUS.iter().for_each(|(status, text)| entry(&mut roff, [bold(*status)], [roman(*text)]));
    Ok(roff.to_writer(out)?)
}

fn see_also(out: &mut dyn Write, pages: impl Iterator<Item = String>) -> Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut text = Vec::new();
    for page in pages {
        if !text.is_empty() {
            text.push(roman(", "));
        }
        text.extend([bold(page), roman("(8)")]);
    }
    roff.text(text);
    Ok(roff.to_writer(out)?)
}

fn sections(out: &mut dyn Write, readme: &str, names: &[&str]) -> Result<()> {
    let mut roff = Roff::new();
    for name in names {
        let events = section(readme, name);
        if !events.is_empty() {
            roff.control("SH", [*name]);
            Page::new(&mut roff).all(events);
        }
    }
    Ok(roff.to_writer(out)?)
}

/// What stands below a heading of the second level.
fn section<'a>(readme: &'a str, name: &str) -> Vec<Event<'a>> {
    let mut found = Vec::new();
    let mut heading = None;
    let mut inside = false;
    for event in Parser::new_ext(readme, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(HeadingLevel::H2)) => inside = heading.take().as_deref() == Some(name),
            Event::Text(text) if heading.is_some() => {
                heading.iter_mut().for_each(|name| name.push_str(&text))
            }
            event if inside => found.push(event),
            _ => (),
        }
    }
    found
}

/// Markdown on its way to a page.
struct Page<'r> {
    roff: &'r mut Roff,
    line: Vec<Inline>,
    /// Whether the text is emphasised.
    emphasis: bool,
    code: Option<String>,
    /// The cells of a table's row so far; the titles' row is left out.
    cells: Option<Vec<Vec<Inline>>>,
    in_item: bool,
}

impl<'r> Page<'r> {
    fn new(roff: &'r mut Roff) -> Self {
        Self { roff, line: Vec::new(), emphasis: false, code: None, cells: None, in_item: false }
    }

    fn all(mut self, events: Vec<Event<'_>>) {
        events.into_iter().for_each(|event| self.event(event));
        self.flush();
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(std::mem::take(&mut self.line));
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            // In a list's entry, its own indentation says enough.
            Event::Start(Tag::Paragraph) if !self.in_item => {
                self.roff.control("PP", []);
            }
            Event::Start(Tag::Item) => {
                self.roff.control("IP", ["\\(bu", "2"]);
                self.in_item = true;
            }
            Event::Start(Tag::CodeBlock(_)) => self.code = Some(String::new()),
            Event::End(TagEnd::CodeBlock) => self.end_code(),
            Event::Start(Tag::TableHead | Tag::TableRow) => self.cells = Some(Vec::new()),
            Event::End(TagEnd::TableHead) => self.cells = None,
            Event::End(TagEnd::TableRow) => self.end_row(),
            Event::End(TagEnd::TableCell) => {
                let cell = std::mem::take(&mut self.line);
                self.cells.iter_mut().for_each(|cells| cells.push(cell.clone()));
            }
            Event::Start(Tag::Emphasis | Tag::Strong) => self.emphasis = true,
            Event::End(TagEnd::Emphasis | TagEnd::Strong) => self.emphasis = false,
            Event::End(TagEnd::Item) => {
                self.flush();
                self.in_item = false;
            }
            Event::End(TagEnd::Paragraph) => self.flush(),
            Event::Text(text) => match &mut self.code {
                Some(code) => code.push_str(&text),
                None if self.emphasis => self.line.push(italic(text)),
                None => self.line.push(roman(text)),
            },
            Event::Code(text) => self.line.push(bold(text)),
            Event::SoftBreak => self.line.push(roman(" ")),
            Event::HardBreak => self.line.push(roff::line_break()),
            _ => (),
        }
    }

    fn end_code(&mut self) {
        let code = self.code.take().unwrap_or_default();
        self.roff.control("PP", []);
        self.roff.control("RS", ["4"]);
        self.roff.control("EX", []);
        for line in code.lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("EE", []);
        self.roff.control("RE", []);
    }

    fn end_row(&mut self) {
        let mut cells = self.cells.take().unwrap_or_default().into_iter();
        let first = cells.next().unwrap_or_default();
        let mut text = Vec::new();
        for cell in cells.filter(|cell| !cell.is_empty()) {
            if !text.is_empty() {
                text.push(roman("; "));
            }
            text.extend(cell);
        }
        entry(self.roff, first, text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::READMES;
    use crate::TOOLS;

    fn each() -> impl Iterator<Item = (&'static Entry, &'static str)> {
        TOOLS.iter().copied().zip(READMES.iter().copied())
    }

    /// The examples: a command after `# `, and what it printed.
    fn examples(readme: &str) -> Vec<(Vec<String>, Vec<String>)> {
        let mut found = Vec::new();
        let mut code = false;
        for event in section(readme, "EXAMPLES") {
            match event {
                Event::Start(Tag::CodeBlock(_)) => code = true,
                Event::End(TagEnd::CodeBlock) => code = false,
                Event::Text(text) if code => {
                    for line in text.lines() {
                        match (line.strip_prefix("# "), found.last_mut()) {
                            (Some(command), _) => {
                                found.push((command.split_whitespace().map(String::from).collect(), vec![]));
                            }
                            (None, Some((_, output))) => output.push(line.to_string()),
                            (None, None) => panic!("an example without a command: {line}"),
                        }
                    }
                }
                _ => (),
            }
        }
        found
    }

    #[test]
    fn every_readme_has_every_section() {
        for (tool, readme) in each() {
            for name in ["DESCRIPTION", "EXAMPLES", "OVERHEAD", "HOOKS", "LIMITS", "SEE ALSO"] {
                assert!(!section(readme, name).is_empty(), "{}: no section {name}", tool.name);
            }
            let title: Vec<&str> = readme.lines().take(3).collect();
            assert_eq!(title, [format!("# {}", tool.name), String::new(), tool.question()], "{}", tool.name);
        }
    }

    #[test]
    fn tools_that_are_named_exist() {
        for (tool, readme) in each() {
            let mut page = Vec::new();
            super::tool(&mut page, tool, readme).unwrap();
            let page = String::from_utf8(page).unwrap();
            let also = page.rsplit("SEE ALSO").next().unwrap();
            for name in also.split("kscope\\-").skip(1) {
                let name = name.split('\\').next().unwrap();
                assert!(crate::find(name).is_some(), "{}: there is no {name}", tool.name);
            }
        }
    }

    #[test]
    fn examples_use_the_options_that_there_are() {
        for (tool, readme) in each() {
            let examples = examples(readme);
            assert!(examples.iter().any(|(command, _)| command[0] == tool.name), "{}", tool.name);
            for (command, _) in examples {
                // Others read what a tool wrote.
                let Some(other) = crate::find(&command[0]) else { continue };
                // What stands behind the tool's part of a line is the shell's.
                let words = command.iter().take_while(|word| !["|", ">", "2>", "&"].contains(&word.as_str()));
                let parsed = other.command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{}: {command:?}: {parsed:?}", tool.name);
            }
        }
    }

    #[test]
    fn options_in_the_text_exist() {
        for (tool, readme) in each() {
            let command = tool.command();
            for event in Parser::new_ext(readme, Options::ENABLE_TABLES) {
                let Event::Code(text) = event else { continue };
                let Some(option) = text
                    .split([' ', '='])
                    .next()
                    .filter(|word| word.starts_with('-') && !word.trim_start_matches('-').is_empty())
                else {
                    continue;
                };
                let known = command.get_arguments().any(|arg| match option.strip_prefix("--") {
                    Some(long) => arg.get_long_and_visible_aliases().is_some_and(|all| all.contains(&long)),
                    None => arg
                        .get_short_and_visible_aliases()
                        .is_some_and(|all| all.iter().any(|short| option == format!("-{short}"))),
                });
                assert!(known, "{}: there is no {option}", tool.name);
            }
        }
    }

    #[test]
    fn columns_and_keys_in_examples_exist() {
        for (tool, readme) in each() {
            for (command, output) in
                examples(readme).into_iter().filter(|(command, _)| command[0] == tool.name)
            {
                let rows = tool.rows();
                let titles: BTreeSet<&str> =
                    rows.iter().flat_map(|row| row.fields).map(|field| field.title).collect();
                // The first line of a table is its titles.
                let first = output.iter().find(|line| !line.is_empty()).cloned().unwrap_or_default();
                if first.chars().any(char::is_alphabetic) && !first.chars().any(char::is_lowercase) {
                    let unknown: Vec<_> =
                        first.split_whitespace().filter(|word| !titles.contains(word)).collect();
                    assert!(unknown.is_empty(), "{}: {command:?} has no column {unknown:?}", tool.name);
                }
                for line in output.iter().filter(|line| line.starts_with('{')) {
                    let object: serde_json::Value =
                        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
                    let Some(row) = rows.iter().find(|row| object["type"] == row.name) else { continue };
                    for key in object.as_object().unwrap().keys().filter(|key| *key != "type") {
                        let plain = key.strip_suffix("_hex").unwrap_or(key);
                        assert!(
                            row.fields.iter().any(|field| field.key == plain),
                            "{}: no key {key}",
                            tool.name
                        );
                    }
                }
            }
        }
    }
}
