# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The peers: libbpf-tools and bpftrace of Debian's newest suite, in a folder of their own with the libraries that they
need, the C library too."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

import debian

PACKAGES = ["libbpf-tools", "bpftrace"]
FOLDER = ROOT / "target/bench"
TREE = FOLDER / "peers"
VERSIONS = TREE / "versions"


def setup():
    """Fetch them, unless they are there. `rm -r target/bench` has newer ones fetched."""
    if VERSIONS.exists():
        return
    arch = subprocess.run(["dpkg", "--print-architecture"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    apt = debian.Apt(FOLDER / "apt", ["sid"], arch)
    failure = f"{' and '.join(PACKAGES)} could not be downloaded"
    # Of an empty system: all that they need comes with them.
    apt.run(failure, "apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "install", *PACKAGES)
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    for deb in (FOLDER / "apt/cache/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", deb, TREE], check=True)
    shown = apt.run(failure, "apt-cache", "policy", *PACKAGES)
    found = [line.split()[1] for line in shown.splitlines() if "Candidate:" in line]
    VERSIONS.write_text("".join(f"{package} {version}\n" for package, version in zip(PACKAGES, found, strict=True)))


def versions():
    """As in `libbpf-tools 0.37.0`."""
    return VERSIONS.read_text().splitlines()


def program(name):
    """The file of a peer's program."""
    # libbpf-tools 0.37 has a suffix, as bcc has tools of the same names.
    for path in (f"usr/sbin/{name}-libbpf", f"usr/sbin/{name}", f"usr/bin/{name}"):
        if (TREE / path).exists():
            return TREE / path
    raise debian.Missing(f"the peers have no {name}: run bench/setup")


def command(words):
    """A command of theirs, its program by name: run by their own dynamic linker."""
    linker = next(iter(sorted(TREE.glob("usr/lib*/ld-linux-*.so.*"))), None)
    if linker is None:
        raise debian.Missing("the peers have no dynamic linker: run bench/setup")
    libraries = {path.parent for path in TREE.glob("usr/lib/**/*.so.*") if path.is_file()}
    file = program(words[0])
    return [str(linker), "--library-path", ":".join(sorted(map(str, libraries))), "--argv0", words[0], str(file), *words[1:]]


if __name__ == "__main__":
    try:
        setup()
        print(", ".join(versions()))
    except debian.Missing as error:
        sys.exit(f"bench: {error}")
