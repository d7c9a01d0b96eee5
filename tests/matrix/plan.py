# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What is run in which boot, and what is made of its results."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, field

from machine import Boot, Job

# The ways that a hook may have: lib/src/hooks.rs. What stands at a function's end is one with what stands at its beginning.
WAYS = ["tp_btf", "raw_tp", "tp", "fentry", "kprobe"]
PAIRED = {"fexit": "fentry", "kretprobe": "kprobe"}
# The program with the tests of the tools and of what they have in common, by module; and that with what every tool is
# held to, a test for each promise and tool.
BEHAVIOUR = "behaviour"
CONTRACT = "contract"
# Modules with tests that take more than a kernel: a distribution's programs, or what was recorded on one kernel; or
# less.
HOST_ONLY = {"command_line", "metrics", "pages", "runbooks"}
# Shared tests of the command line, of what is printed and of how a tool ends: no kernel decides them.
SHARED_HOST_ONLY = {
    "flags_of_libbpf_tools_are_accepted", "help_and_version_are_printed", "nonsense_is_refused",
    "a_command_gives_its_exit_status", "a_command_has_the_terminal_and_the_tool_a_file", "a_command_runs_as_whoever_ran_the_tool",
    "a_signal_ends_the_command_too", "ambiguous_cgroups_are_refused", "closed_pipe_ends_it_quietly", "full_disk_is_a_failure",
    "events_cost_no_more", "no_program_grows",
    "hostile_bytes_reach_no_terminal", "interrupt_termination_and_hangup_end_it_well", "stop_and_continue_do_not_end_it",
}
# The tests for a boot that differs in one thing: of the shared ones, and of a tool's own by the beginning of
# their names (three, if it has none of these).
SHARED_FEW = ["json_is_valid_with_header_first_and_footer_last"]
SHARED_SOME = [*SHARED_FEW, "losses_are_reported_exactly"]
OWN_SOME = re.compile("many_|without_a_filter_|overload_|known_")

PROGRAM = re.compile(r"libbpf: sec '([^']+)': found program '(\w+)'")

# Busybox's shell takes its own setpriv, which can't do that, for one that is in the PATH.
TWO_CAPABILITIES = (
    "$([ -x $B/setpriv ] && echo $B/setpriv || echo setpriv) --reuid 65534 --regid 65534 --clear-groups --inh-caps -all,+bpf,+perfmon "
    "--ambient-caps -all,+bpf,+perfmon --bounding-set -all,+bpf,+perfmon"
)


@dataclass
class Suite:
    """The tools, those of them that print events one by one, and the tests by program."""

    tools: list
    streams: set
    tests: dict

    def __post_init__(self):
        self.all_tools = list(self.tools)

    @classmethod
    def of(cls, programs):
        """Ask the programs themselves."""
        def lines(*command):
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()

        tools = [json.loads(line)["tool"] for line in lines(programs / "kscope", "list", "--json")]
        tests = {}
        for program in sorted(programs.iterdir()):
            if program.name not in ("kscope", "workload", "offline"):
                listed = lines(program, "--list", "--format", "terse")
                tests[program.name] = [line[:-6] for line in listed if line.endswith(": test")]
        helps = {tool: lines(programs / "kscope", tool, "--help") for tool in tools}
        streams = {tool for tool in tools if any("--buffer" in line for line in helps[tool])}
        return cls(tools, streams, tests)

    def others(self, host):
        """Modules with tests of no tool: of the command itself, and of what tools have in common."""
        modules = {test.split("::")[0] for test in self.tests[BEHAVIOUR]} - set(self.all_tools)
        return sorted(modules - (set() if host else HOST_ONLY))

    def all(self, tool, host):
        """Every test of a tool: (program, test)."""
        return self.shared(tool, lambda promise: host or promise not in SHARED_HOST_ONLY) + self.own(tool)

    def shared(self, tool, wanted):
        """What all tools are held to, as far as it is wanted."""
        pairs = [(test, test.split("::")) for test in self.tests[CONTRACT]]
        return [(CONTRACT, test) for test, (promise, of) in pairs if of == tool and wanted(promise)]

    def own(self, tool):
        """The tests that no other tool shares, or those of such a module."""
        return [(BEHAVIOUR, test) for test in self.tests[BEHAVIOUR] if test.startswith(f"{tool}::")]

    def telling(self, tool):
        """Those of its own that tell most of it."""
        own = self.own(tool)
        return [pair for pair in own if OWN_SOME.match(pair[1].split("::", 1)[1])] or own[:3]

    def some(self, tool):
        """What tells most of a tool in a short time."""
        return self.shared(tool, SHARED_SOME.__contains__) + self.telling(tool)

    def few(self, tool):
        """What tells whether a tool works at all."""
        return self.shared(tool, SHARED_FEW.__contains__)


def tests(tool, pairs, way="", env=None):
    """Jobs for tests of a tool, each in a process of its own."""
    env = f"KSCOPE_TOOLS={tool} " if env is None else env
    env += f"KSCOPE_WAY={way} " if way else ""
    for binary, test in pairs:
        name = f"test {tool} {binary} {test}" + (f" by {way}" if way else "")
        yield Job(name, f"{env}$B/{binary} --exact {shlex.quote(test)} --test-threads 1")


def doctor(name="", prefix=""):
    """Each tool's verdict."""
    return Job(f"doctor {name}".strip(), f"{prefix} $B/kscope doctor --json".strip())


def verifier(tool, options, way=""):
    """What the verifier says of a tool's programs."""
    env = f"KSCOPE_WAY={way} " if way else ""
    return Job(f"verifier {tool} {env}{options}".strip(), f"{env}$B/kscope {tool} -v --dry-run {options}".strip())


def main_boot(suite, budget, host, short):
    """The tests, and what the verifier says, by the hooks that the tools choose."""
    jobs = [doctor(), doctor(name="nobody", prefix=TWO_CAPABILITIES)]
    for tool in suite.tools:
        jobs += [verifier(tool, options) for options in budget.options(tool)]
    for tool in suite.tools:
        jobs += tests(tool, suite.some(tool) if short else suite.all(tool, host))
    for module in suite.others(host):
        jobs += tests(module, suite.own(module), env="")
    return Boot("main", jobs, append="norandmaps")


def ways_boot(suite, budget, main):
    """The tests that tell most by each way that a tool has and does not choose; nothing, if no tool has another."""
    jobs = []
    for way in WAYS:
        for tool in suite.tools:
            if way in other_ways(main, tool):
                jobs.append(Job(f"doctor {way} {tool}", f"KSCOPE_WAY={way} $B/kscope doctor --json {tool}"))
                jobs += [verifier(tool, options, way) for options in budget.options(tool)]
                jobs += tests(tool, suite.telling(tool), way)
    return Boot("ways", jobs, append="norandmaps") if jobs else None


def other_ways(main, tool):
    """The ways that a hook of the tool has, but for the one that was chosen for it."""
    verdict = verdicts(main).get(tool)
    done = main.done.get(f"verifier {tool}")
    found = set()
    for line in done.output if done and verdict else []:
        if match := PROGRAM.match(line):
            chosen = verdict.hooks.get(match[2].partition("__")[0])
            way = match[1].split("/")[0]
            if chosen and way not in chosen.split("/")[0].split("+"):
                found.add(PAIRED.get(way, way))
    return found


def other_boots(suite):
    """Kernels and machines of other kinds."""
    some = [doctor(), *(job for tool in suite.tools for job in tests(tool, suite.some(tool)))]
    few = [doctor(), *(job for tool in suite.tools for job in tests(tool, suite.few(tool)))]
    offline = [Job(f"offline {tool}", f"sh $B/offline {tool}") for tool in suite.tools]
    return [
        Boot("one-cpu", some, cpus=1),
        Boot("four-cpus", some + offline, cpus=4),
        Boot("no-tracefs", few, append="matrix.notracefs"),
        Boot("lockdown", few, append="lockdown=confidentiality"),
    ]


@dataclass
class Verdict:
    """What `kscope doctor` says of a tool."""

    works: bool
    hooks: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    reason: str = ""


def verdicts(result, name=""):
    """What a boot's doctor said, by tool."""
    done = result.done.get(f"doctor {name}".strip()) if result else None
    found = {}
    for line in done.output if done else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["tool"]] = Verdict(row["works"], row.get("hooks", {}), row.get("notes", []), row.get("reason", ""))
    return found

