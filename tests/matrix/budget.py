# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The instructions that the verifier processes for each program, as recorded in each tool's verifier.tsv, which
`make matrix UPDATE_BUDGET=1` writes. To measure a tool with other options too, add a row with them, and - for the
program and each kernel."""

import re

GROWTH = 1.2
REFUSED = "refused"
FILE = "verifier.tsv"
HEADER = ["options", "program"]

BEGIN = re.compile(r"libbpf: prog '(\w+)': -- BEGIN PROG LOAD LOG --")
FAILED = re.compile(r"libbpf: prog '(\w+)': BPF program load failed")
PROCESSED = re.compile(r"processed (\d+) insns")


def version(kernel):
    """A kernel's place among others."""
    return [int(part) for part in kernel.split(".")]


class Budget:
    """What is recorded, and what was measured."""

    def __init__(self, tools):
        """Of the tools in this folder."""
        self.tools = tools
        self.recorded = {}
        self.measured = {}
        self.ran = set()
        self.refusals = []
        for path in sorted(tools.glob(f"*/{FILE}")):
            header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
            for row in rows:
                for kernel, value in zip(header[len(HEADER):], row[len(HEADER):]):
                    self.recorded[(path.parent.name, *row[:2], kernel)] = value

    def options(self, tool):
        """The options with which a tool is loaded: none, and each set that the file has."""
        found = {re.sub(r"KSCOPE_WAY=\w+ ?", "", key[1]) for key in self.recorded if key[0] == tool}
        return sorted(found | {""})

    def measure(self, kernel, result):
        """Read the jobs of a boot, if there was one."""
        for name, done in result.done.items() if result else []:
            if not name.startswith("verifier "):
                continue
            tool, options = (name.split(" ", 2) + [""])[1:3]
            self.ran.add((tool, options, kernel))
            keys = [key for key in self.recorded if (key[0], key[1], key[3]) == (tool, options, kernel)]
            loaded = any(self.recorded[key].isdigit() for key in keys)
            if done.status != 0 and (loaded or "KSCOPE_WAY" not in options):
                self.refusals.append(f"{kernel}: {tool} {options}: {(done.output or ['it failed'])[-1]}")
            program = None
            for line in done.output:
                if match := BEGIN.search(line):
                    program = match[1]
                elif match := FAILED.search(line):
                    self.measured[(tool, options, match[1], kernel)] = REFUSED
                elif (match := PROCESSED.search(line)) and program:
                    self.measured.setdefault((tool, options, program, kernel), match[1])
                    program = None
        self._drop_repeats(kernel)

    def _drop_repeats(self, kernel):
        """A forced way that changes no program says nothing new."""
        of_kernel = {key: value for key, value in self.measured.items() if key[3] == kernel}
        for tool, options, program, _ in of_kernel:
            free = re.sub(r"KSCOPE_WAY=\w+ ?", "", options)
            if free != options and (tool, free, program, kernel) in of_kernel:
                del self.measured[(tool, options, program, kernel)]

    def judge(self):
        """How many programs are as cheap as recorded, and sentences on the others."""
        good, bad = 0, list(self.refusals)
        for key, value in sorted(self.measured.items()):
            tool, options, program, kernel = key
            before = self.recorded.get(key, "-")
            where = f"{kernel}: {tool} {options}".strip()
            if value == REFUSED and before != REFUSED:
                bad.append(f"{where}: the verifier refuses {program}")
            elif value != REFUSED and before not in ("-", REFUSED) and int(value) > GROWTH * int(before):
                bad.append(f"{where}: the verifier takes {value} instructions for {program}, and took {before}")
            else:
                good += 1
        return good, bad

    def unrecorded(self):
        """How many programs have no number in the file."""
        return sum(1 for key in self.measured if self.recorded.get(key, "-") == "-")

    def write(self):
        """Record what was measured, in place of what is recorded of the same tools, options and kernels."""
        values = {key: value for key, value in self.recorded.items() if (key[0], key[1], key[3]) not in self.ran}
        values.update(self.measured)
        self.recorded = values
        for tool in {tool for tool, *_ in self.ran}:
            own = {key[1:]: value for key, value in values.items() if key[0] == tool}
            kernels = sorted({kernel for *_, kernel in own}, key=version)
            rows = sorted({key[:2] for key, value in own.items() if value != "-"})
            with (self.tools / tool / FILE).open("w") as file:
                file.write("\t".join(HEADER + kernels) + "\n")
                for row in rows:
                    file.write("\t".join([*row, *(own.get((*row, kernel), "-") for kernel in kernels)]) + "\n")
