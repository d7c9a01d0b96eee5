# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What is measured of a tool and of those whom it watches."""

import ctypes
import json
import mmap
import os
import pty
import platform
import re
import select
import signal
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Of include/uapi/asm-generic/unistd.h.
PIDFD_GETFD = 438
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[platform.machine()]
# Of include/uapi/linux/perf_event.h.
PERF_TYPE_TRACEPOINT, PERF_ATTR_SIZE = 2, 64
# For a tool to attach, or to print what it has.
PATIENCE = 60
# For a tool to end before it is asked to once more.
ASK_AGAIN = 20


class Failed(Exception):
    """A measurement that could not be made."""


@contextmanager
def program_statistics():
    """Have the kernel count the run time of programs, and set it back."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def fdinfo(pid):
    """What the kernel says of a process's files, of which one may be closed at any time."""
    for fd in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            yield fd.read_text()
        except OSError:
            pass


def programs(pid):
    """The BPF programs that a process holds: id to (run time in ns, runs)."""
    found = {}
    for text in fdinfo(pid):
        if match := re.search(r"^prog_id:\s*(\d+)$", text, re.M):
            time_ns = re.search(r"^run_time_ns:\s*(\d+)$", text, re.M)
            runs = re.search(r"^run_cnt:\s*(\d+)$", text, re.M)
            if time_ns and runs:
                found[match[1]] = (int(time_ns[1]), int(runs[1]))
    return found


def maps_bytes(pid):
    """The memory of the BPF maps that a process holds."""
    found = {}
    for text in fdinfo(pid):
        number = re.search(r"^map_id:\s*(\d+)$", text, re.M)
        size = re.search(r"^memlock:\s*(\d+)$", text, re.M)
        if number and size:
            found[number[1]] = int(size[1])
    return sum(found.values())


def resident_bytes(pid):
    """Its resident memory, without maps that it has mapped; and how much of that are pages of files."""
    total = files = 0
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            name = words[5] if len(words) > 5 else ""
        elif words[0] == "Rss:" and name != "anon_inode:bpf-map":
            total += int(words[1]) * 1024
            files += int(words[1]) * 1024 if name.startswith("/") else 0
    return total, files


def buffered_bytes(pid):
    """How many bytes the kernel has put into its ring buffer or perf buffers so far; 0 if it has neither."""
    total, perf_size = 0, 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        start, end = (int(word, 16) for word in words[0].split("-"))
        name = words[5] if len(words) > 5 else ""
        if name == "anon_inode:[perf_event]":
            perf_size = end - start
        elif name == "anon_inode:bpf-map" and int(words[2], 16) == PAGE and end - start > 2 * PAGE:
            # A ring buffer's page with the producer's position, before its data.
            with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                memory.seek(start)
                total += int.from_bytes(memory.read(8), "little")
    if perf_size:
        total += sum(perf_head(pid, fd, perf_size) for fd in perf_events(pid))
    return total


def perf_events(pid):
    """The descriptors of a process's perf events; others may be closed at any time."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppressed():
            if os.readlink(fd) == "anon_inode:[perf_event]":
                yield int(fd.name)


def perf_head(pid, fd, size):
    """data_head of struct perf_event_mmap_page: what was written to an event's buffer, which no other process can read."""
    process = os.pidfd_open(pid)
    copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, fd, 0)
    os.close(process)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    try:
        with mmap.mmap(copy, size, prot=mmap.PROT_READ) as page:
            return int.from_bytes(page[1024:1032], "little")
    finally:
        os.close(copy)


def cpu_s(pid):
    """A process's user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICK, int(fields[12]) / TICK


class Tracer:
    """A tool at work, with its output into a file."""

    def __init__(self, command, output="/dev/null"):
        self.command = command
        with open(output, "wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE)
        self.errors = []
        # A pipe that nobody reads would stop it.
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()
        self._wait_until_attached()

    @property
    def pid(self):
        return self.process.pid

    def _wait_until_attached(self):
        """It is when it has programs, and does nothing any more."""
        end = time.monotonic() + PATIENCE
        before, still = None, 0
        while still < 5:
            if self.process.poll() is not None:
                self.reader.join()
                raise Failed(f"{' '.join(self.command)}: {b''.join(self.errors).decode(errors='replace').strip()}")
            if time.monotonic() > end:
                self.stop()
                raise Failed(f"{' '.join(self.command)} did not attach")
            now = (sorted(programs(self.pid)), cpu_s(self.pid))
            still = still + 1 if now == before and now[0] else 0
            before = now
            time.sleep(0.1)

    def stop(self):
        """End it as Ctrl-C does: what it wrote to stderr."""
        began = asked = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        # Not Popen.wait(), which does not tell what it used.
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        while not pid:
            now = time.monotonic()
            if now > began + PATIENCE:
                self.process.kill()
                self.process.wait()
                raise Failed(f"{' '.join(self.command)} did not end")
            if now > asked + ASK_AGAIN:
                # bpftrace may miss the first one.
                self.process.send_signal(signal.SIGINT)
                asked = now
            time.sleep(0.01)
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.user_s = usage.ru_utime
        self.reader.join()
        return b"".join(self.errors).decode(errors="replace")


class FirstProcess:
    """Counts hits of a tracepoint by threads of the first process, in interrupts: some hosts show them to no program.

    See tests/src/first_process.rs.
    """

    def __init__(self, tracepoint):
        number = int(Path(f"/sys/kernel/tracing/events/{tracepoint}/id").read_text())
        attr = struct.pack("IIQ", PERF_TYPE_TRACEPOINT, PERF_ATTR_SIZE, number).ljust(PERF_ATTR_SIZE, b"\0")
        call = ctypes.CDLL(None, use_errno=True).syscall
        threads = [int(thread.name) for thread in Path("/proc/1/task").iterdir()]
        self.counters = [fd for thread in threads if (fd := call(PERF_EVENT_OPEN, attr, thread, -1, -1, 0)) >= 0]

    def count(self):
        """How many since it was made, which ends it."""
        found = sum(int.from_bytes(os.read(fd, 8), "little") for fd in self.counters)
        for fd in self.counters:
            os.close(fd)
        return found


@dataclass
class Work:
    """What a workload took."""

    cpu_s: float
    elapsed_s: float


class Workload:
    """One of the tests' workloads, which has made what it needs, and waits."""

    def __init__(self, command):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def start(self):
        """Let it act."""
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def kill(self):
        """End it, whether it has acted or not."""
        self.process.kill()
        self.process.communicate()

    def go(self):
        """Let it act, until it has."""
        start = time.monotonic()
        self.start()
        for line in self.process.stdout:
            done = json.loads(line)
            if done.get("done"):
                break
        else:
            raise Failed(f"{' '.join(self.command)} did not come to its end")
        elapsed = time.monotonic() - start
        self.process.stdin.close()
        if self.process.wait() != 0:
            raise Failed(f"{' '.join(self.command)} failed")
        return Work(done["cpu_ns"] / 1e9, elapsed)


def work(command):
    """Run a workload."""
    return Workload(command).go()


def first_event_s(command, events):
    """From exec to the first line that `events` is in, on a terminal, while such events happen all the time."""
    main, other = pty.openpty()
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=other, stderr=subprocess.DEVNULL)
    os.close(other)
    seen = b""
    try:
        while events not in seen:
            if not select.select([main], [], [], PATIENCE)[0]:
                raise Failed(f"{' '.join(command)} printed no event")
            try:
                seen += os.read(main, 65536)
            except OSError as error:
                raise Failed(f"{' '.join(command)} ended") from error
        return time.monotonic() - start
    finally:
        process.send_signal(signal.SIGINT)
        os.set_blocking(main, False)
        end = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            select.select([main], [], [], 0.1)
            with suppressed():
                os.read(main, 1 << 20)
        process.kill()
        process.wait()
        os.close(main)


def first_run_s(command):
    """From exec to the first run of one of its programs, while what they are for happens all the time."""
    with program_statistics():
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not any(runs for _, runs in programs(process.pid).values()):
                if process.poll() is not None or time.monotonic() > start + PATIENCE:
                    raise Failed(f"{' '.join(command)}: no program ran")
            return time.monotonic() - start
        finally:
            # So early, peers may miss SIGINT.
            process.kill()
            process.wait()


def verifier_ms(command):
    """How long the kernel verifies a tool's programs, as kscope tells of it."""
    done = subprocess.run([*command, "-v", "--dry-run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return sum(int(us) for us in re.findall(r"verification time (\d+) usec", done.stderr)) / 1e3


@contextmanager
def suppressed():
    """Reading from what is gone, or has nothing."""
    try:
        yield
    except OSError:
        pass


def busy_s():
    """CPU time that anybody has used, and that a hypervisor took."""
    fields = [int(n) / TICK for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return user + nice + system + irq + softirq + steal
