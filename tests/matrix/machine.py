# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Where jobs are run: a machine of QEMU with one of Debian's kernels, or this host."""

import os
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

# What a machine may take without a word, on top of the limit of the job that it is at.
PATIENCE = 90
# What a boot may take as a whole.
LIMIT = 4800


@dataclass
class Job:
    """A shell command; $B is the folder of the programs."""

    name: str
    command: str
    limit: int = 200


@dataclass
class Boot:
    """A machine, and what is done in it."""

    name: str
    jobs: list
    cpus: int = 2
    append: str = ""


@dataclass
class Done:
    """What came of a job."""

    status: int
    seconds: float
    output: list


@dataclass
class Result:
    """What came of a boot; `failure` is a sentence, if it did not come to its end or the kernel complained.

    `notes` is what /init could not prepare.
    """

    jobs: list
    done: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    complete: bool = False
    failure: str = ""
    seconds: float = 0


def cpio(folder):
    """A folder as an archive for the kernel, as if it were root's."""
    names = subprocess.run(["find", ".", "-print0"], cwd=folder, stdout=subprocess.PIPE, check=True).stdout
    return subprocess.run(
        ["cpio", "--null", "-o", "-H", "newc", "--quiet", "-R", "+0:+0"],
        cwd=folder, input=names, stdout=subprocess.PIPE, check=True,
    ).stdout


def base(folder, programs):
    """What all machines have, as an archive: busybox, /init, the programs, and a few others with their libraries."""
    here = Path(__file__).parent
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "matrix"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    shutil.copy(here / "init", folder / "init")
    shutil.copytree(programs, folder / "matrix/bin")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in ("dmsetup", "setpriv"):
        program = shutil.which(name, path=path)
        shutil.copy(program, folder / "matrix/bin" / name)
        libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
        for word in libraries.split():
            if word.startswith("/"):
                target = folder / word.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, target)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (folder / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    return cpio(folder)


def qemu(image, initrd, append, console, results, cpus=2, memory=1024):
    """How a machine without KVM is started, with two serial ports."""
    # With a thread for each CPU, QEMU 7.2 hangs now and then while the kernel turns a tracepoint on: it goes on
    # running its translation of the breakpoint that stands there for a moment.
    return [
        "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max", "-machine", "q35", "-m", str(memory),
        "-smp", str(cpus), "-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none",
        "-serial", f"file:{console}", "-serial", f"file:{results}",
        "-kernel", image, "-initrd", initrd, "-append", f"console=ttyS0 panic=-1 {append}",
    ]


class Machine:
    """QEMU, without KVM."""

    def __init__(self, kernel, archive, folder):
        self.kernel = kernel
        self.folder = folder
        modules = folder / "modules"
        shutil.rmtree(folder, ignore_errors=True)
        (modules / "matrix").mkdir(parents=True)
        shutil.copytree(kernel.modules, modules / "matrix/modules")
        self.archive = archive + cpio(modules)
        shutil.rmtree(modules)

    def run(self, boot):
        """Boot, run the jobs, and read the results."""
        stem = self.folder / boot.name
        jobs = stem / "matrix"
        jobs.mkdir(parents=True)
        lines = [f"job {shlex.quote(j.name)} {j.limit} {shlex.quote(j.command)}\n" for j in boot.jobs]
        (jobs / "jobs").write_text("".join(lines))
        initrd, console, results = (stem / name for name in ("initrd", "console", "results"))
        initrd.write_bytes(self.archive + cpio(stem))
        append = f"loglevel=5 rdinit=/init lsm=lockdown,capability,bpf {boot.append}"
        command = qemu(self.kernel.image, initrd, append, console, results, boot.cpus)
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            failure = self._watch(process, boot, results, began)
        finally:
            process.kill()
            said = process.communicate()[0].decode(errors="replace").strip()
            initrd.unlink()
        result = read(results, boot.jobs)
        result.seconds = time.monotonic() - began
        if not result.complete:
            result.failure = failure or "the machine ended before it was done"
        shouts = [line for line in text(console).splitlines() if any(word in line for word in SHOUTS)]
        if shouts and not result.failure:
            result.failure = f"the kernel said: {shouts[0].strip()}"
        if result.failure:
            tail = text(console).splitlines()[-25:]
            result.failure += "".join(f"\n    {line}" for line in ([said] if said else []) + tail)
        return result

    @staticmethod
    def _watch(process, boot, results, began):
        """Wait for the end; a sentence if it has to be made."""
        patience = PATIENCE + max(job.limit for job in boot.jobs)
        size, changed = 0, began
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if results.exists() and results.stat().st_size != size:
                size, changed = results.stat().st_size, now
            begun = [line for line in text(results).splitlines() if line.startswith("@@ begin ")]
            at = f" at: {begun[-1][9:]}" if begun else ""
            if now - changed > patience:
                return f"the machine hung{at}"
            if now - began > LIMIT:
                return f"the machine was not done after {LIMIT} s{at}"
        return ""


# What a healthy kernel does not say.
SHOUTS = ("BUG:", "Oops", "Kernel panic", "WARNING:", "INFO: task", "UBSAN:")


# Where tracefs is not mounted, mount it for the command that follows alone.
WITH_TRACEFS = "[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\""


class Host:
    """This host."""

    def __init__(self, programs, folder):
        self.programs = programs
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def run(self, boot):
        """Run the jobs."""
        began = time.monotonic()
        result = Result(boot.jobs, complete=True)
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        # A forced way may need tracefs, as guests have it mounted.
        mounted = ["unshare", "--mount", "sh", "-c", WITH_TRACEFS, "sh"] if boot.name == "ways" else []
        env = [f"B={self.programs}", f"KSCOPE={self.programs}/kscope", f"KSCOPE_WORKLOAD={self.programs}/workload"]
        for job in boot.jobs:
            start = time.monotonic()
            command = [*sudo, *mounted, "env", *env, "timeout", "-s", "KILL", str(job.limit), "sh", "-c", job.command]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            lines = done.stdout.decode(errors="replace").splitlines()
            result.done[job.name] = Done(done.returncode, time.monotonic() - start, lines)
        result.seconds = time.monotonic() - began
        return result


def text(path):
    """A file that a machine writes, as far as it is there."""
    return path.read_bytes().decode(errors="replace").replace("\r", "") if path.exists() else ""


def read(path, jobs):
    """What /init wrote."""
    result = Result(jobs)
    output = []
    for line in text(path).split("\n"):
        if line.startswith("| "):
            output.append(line[2:])
        elif line.startswith("@@ begin "):
            output = []
        elif line.startswith("@@ end "):
            name, status, seconds = line[7:].rsplit(" ", 2)
            result.done[name] = Done(int(status), float(seconds), output)
        elif line.startswith("@@ note "):
            result.notes.append(line[8:])
        elif line == "@@ done":
            result.complete = True
    return result
