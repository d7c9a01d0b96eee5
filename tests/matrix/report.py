# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the results mean: pass or fail, and docs/kernels.md."""

import json
from dataclasses import dataclass, field

import plan

# Runs on other machines: title, boot, the doctor's name, and the words of which a refusal must have one to be
# an answer that the user can act on. Where there are none, it is a failure.
OTHERS = [
    ("With one CPU", "one-cpu", "", ()),
    ("With four CPUs", "four-cpus", "", ()),
    ("As nobody with CAP_BPF and CAP_PERFMON", "main", "nobody", ("CAP_",)),
    ("Without tracefs", "no-tracefs", "", ("tracefs",)),
    ("Booted with lockdown=confidentiality", "lockdown", "", ("lockdown",)),
]
SHOWN = 30


@dataclass
class Column:
    """A kernel, and what came of its boots."""

    name: str
    release: str
    package: str
    results: dict


@dataclass
class Failure:
    """One thing that is wrong, and what shows it."""

    what: str
    output: list = field(default_factory=list)

    def text(self):
        lines = [line for line in self.output if line.strip()]
        return self.what + "".join(f"\n    {line[:500]}" for line in lines[-SHOWN:])


@dataclass
class Cell:
    """A tool on a kernel, in one kind of run. `passed` counts tests, and the verdict as one."""

    passed: int = 0
    failures: list = field(default_factory=list)
    hooks: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    # Why it does not work, where that is no failure.
    reason: str = ""

    def text(self):
        if self.failures:
            return "**FAILED**: " + ", ".join(escape(failure.what) for failure in self.failures)
        if self.reason:
            return "no: " + escape(self.reason)
        parts = ["pass", *(f"`{hook}`" for hook in self.hooks), *(f"({escape(note)})" for note in self.notes)]
        return "<br>".join(parts) if self.passed else ""


def escape(text):
    for char in "\\|*_`<>":
        text = text.replace(char, "\\" + char)
    return text


def verdict_cell(result, verdict, refusals=()):
    """A cell without tests."""
    if result is None:
        return Cell()
    if verdict is None:
        return Cell(failures=[Failure("kscope doctor says nothing of it")])
    if verdict.works:
        return Cell(1, hooks=sorted(set(verdict.hooks.values())), notes=verdict.notes)
    if any(word in verdict.reason for word in refusals):
        return Cell(1, reason=verdict.reason)
    return Cell(failures=[Failure(verdict.reason)])


def add_tests(cell, result, tool, way=""):
    """Add what came of a tool's tests in a boot."""
    if result is None or cell.reason:
        return cell
    mark = f" by {way}" if way else ""
    names = [job.name for job in result.jobs if job.name.startswith(f"test {tool} ")]
    if not way and cell.failures:
        # Each of its tests would fail too, and say less.
        return cell
    missing = 0
    for name in names:
        if not name.endswith(mark) or (" by " in name) != bool(way):
            continue
        done = result.done.get(name)
        if done is None:
            missing += 1
        elif done.status == 0:
            cell.passed += 1
        else:
            test = name.removeprefix(f"test {tool} ").removesuffix(mark)
            cell.failures.append(Failure(test, done.output))
    if missing:
        cell.failures.append(Failure(f"{missing} tests did not come to their end"))
    return cell


def offline_cell(result, tool, streams):
    """A tool during whose run a CPU went: what it printed last must be a footer that adds up."""
    if result is None:
        return Cell()
    verdict = plan.verdicts(result).get(tool)
    cell = verdict_cell(result, verdict)
    done = result.done.get(f"offline {tool}")
    if done is None or done.status != 0:
        what = f"exit status {done.status}" if done else "it did not run"
        cell.failures.append(Failure(what, done.output if done else []))
        return cell
    try:
        footer = json.loads([line for line in done.output if line.startswith("{")][-1])
        adds_up = not streams or footer["generated"] == footer["events"] + footer["filtered"] + footer["lost"]
    except (ValueError, LookupError):
        adds_up = False
    if adds_up:
        cell.passed += 1
    else:
        cell.failures.append(Failure("no footer, or one that does not add up", done.output))
    return cell


def tables(suite, columns):
    """Every table: title, and rows of (name, cells by column)."""
    def rows(make):
        made = [(tool, [make(column, tool) for column in columns]) for tool in suite.tools]
        return [(tool, cells) for tool, cells in made if any(cell.passed or cell.failures for cell in cells)]

    def free(column, tool):
        result = column.results["main"]
        return add_tests(verdict_cell(result, plan.verdicts(result).get(tool)), result, tool)

    def command(column, name):
        return add_tests(Cell(), column.results["main"], name)

    others = [(name, [command(column, name) for column in columns]) for name in suite.others(host=True)]
    yield "By the hooks that each tool chooses", rows(free) + others

    for way in plan.WAYS:
        def forced(column, tool, way=way):
            if way not in plan.other_ways(column.results["main"], tool):
                return Cell()
            # A way that this kernel does not have is no failure: the tool has another, which it takes by itself.
            result = column.results.get("ways")
            cell = verdict_cell(result, plan.verdicts(result, f"{way} {tool}").get(tool), refusals=("",))
            return add_tests(cell, result, tool, way)
        yield f"Forced to take `{way}`", rows(forced)

    for title, boot, doctor, refusals in OTHERS:
        def other(column, tool, boot=boot, doctor=doctor, refusals=refusals):
            result = column.results.get(boot)
            cell = verdict_cell(result, plan.verdicts(result, doctor).get(tool), refusals)
            return cell if boot == "main" else add_tests(cell, result, tool)
        yield title, rows(other)

    def offline(column, tool):
        return offline_cell(column.results.get("four-cpus"), tool, tool in suite.streams)
    yield "While a CPU goes and comes", rows(offline)


def judge(suite, columns):
    """How many things are right, and sentences on what is not."""
    passed, failures = 0, []
    for title, rows in tables(suite, columns):
        for tool, cells in rows:
            for column, cell in zip(columns, cells):
                passed += cell.passed
                failures += [f"{column.name}: {tool}: {title}: {failure.text()}" for failure in cell.failures]
    for column in columns:
        for boot, result in column.results.items():
            wrong = result.notes + ([result.failure] if result.failure else [])
            failures += [f"{column.name}: {boot}: {sentence}" for sentence in wrong]
    return passed, failures


def untested(columns):
    """What tests said that they could not test: kernels by sentence."""
    found = {}
    for column in columns:
        for result in column.results.values():
            for done in result.done.values():
                for line in done.output:
                    sentence = line.partition("UNTESTED ")[2].strip()
                    if sentence and column.name not in found.setdefault(sentence, []):
                        found[sentence].append(column.name)
    return sorted(found.items())


def page(suite, columns):
    """docs/kernels.md."""
    lines = [
        "# What works on which kernel",
        "",
        "Generated by `make matrix`; do not edit. One static `kscope` ran on each of these kernels, and with it the",
        "behaviour tests of each tool, which compare what it says with what really happened. In the first table *pass* means",
        "all of them, but on Debian's kernels for those of the command line alone; in the others, those that tell most of a",
        "tool. Below it are the hooks that were taken. `host` is the machine that ran this, the others are Debian's kernels",
        "in QEMU.",
        "",
        "| | kernel | package |",
        "|---|---|---|",
        *(f"| {column.name} | {column.release} | {column.package} |" for column in columns),
    ]
    for title, rows in tables(suite, columns):
        if not rows:
            continue
        lines += ["", f"## {title}", "", "| tool | " + " | ".join(column.name for column in columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [f"| {tool} | " + " | ".join(cell.text() for cell in cells) + " |" for tool, cells in rows]
    left = untested(columns)
    if left:
        lines += ["", "## Not tested, as the kernel or the machine did not offer it", ""]
        lines += [f"- {', '.join(names)}: {escape(sentence)}" for sentence, names in left]
    return "\n".join(lines) + "\n"
