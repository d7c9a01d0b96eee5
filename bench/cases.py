# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What is compared: for each tool, the peer of the same purpose, and a workload whose events are known. Each tool's is
in its room, bench.py."""

import contextlib
import importlib.util
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Case:
    """A comparison. `work` is of the tests' workload; `{dir}` and `{disk}` are put in."""

    peer: list
    work: list
    events: int
    # The folder that it is in.
    tool: str = ""
    ours: list = field(default_factory=list)
    # What an event is, in words.
    event: str = ""
    # The workload's arguments that make so many events at so many a second, for tools that print each.
    paced: list = field(default_factory=list)
    # What marks the workload's lines in the output of both.
    mark: str = ""
    # How many of them there are for each of `count`.
    lines: int = 1
    # A tracepoint of the tool that interrupts hit, if there is one.
    in_interrupts: str = ""
    rates: list = field(default_factory=lambda: [25_000, 50_000, 100_000, 200_000, 400_000, 800_000])
    # The ratio of kernel time that we want to reach.
    kernel_target: float = 0.5
    # What no tool of this kind can do without: in words, and a command that does only that.
    floor: tuple = ()
    # Whether to see what is lost at full speed beside others who want all CPU time.
    beside_busy: bool = False
    # Where the time goes that a target is about, in sentences.
    why: str = ""


SAME_WAY = (
    "What is added to the workload beyond the run time of programs is the kernel's way to them and back, which is the same "
    "for both."
)

TOOLS = Path(__file__).parent.parent / "tools"


def _load(path):
    """The CASE of a tool's bench.py."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CASE.tool = path.parent.name
    return module.CASE


def cases():
    """Of the tools that have one."""
    return [_load(path) for path in sorted(TOOLS.glob("*/bench.py"))]


@contextlib.contextmanager
def tracefs():
    """The peers need it, where it is not mounted yet."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    if any(line.split()[2] == "tracefs" for line in mounts):
        yield
        return
    subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "/sys/kernel/tracing"], check=True)


@contextlib.contextmanager
def places(folder):
    """A directory, and a loop device above a file in it."""
    with tracefs(), tempfile.TemporaryDirectory(dir=folder) as directory:
        image = f"{directory}/image"
        subprocess.run(["fallocate", "-l", "64M", image], check=True)
        found = subprocess.run(
            ["losetup", "-f", "--show", "--direct-io=on", image], stdout=subprocess.PIPE, text=True, check=True
        )
        disk = found.stdout.strip()
        try:
            yield {"dir": directory, "disk": disk}
        finally:
            subprocess.run(["losetup", "-d", disk], check=True)
