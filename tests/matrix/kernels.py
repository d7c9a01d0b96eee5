# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Debian's cloud kernels: found, fetched by a private apt, and unpacked into target/matrix/kernels."""

import functools
import lzma
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import debian
from debian import Missing

# What the tests need of the kernel's modules; a kernel may have it built in.
REQUIRED = ["null_blk", "scsi_debug", "sd_mod", "loop", "zram", "dm-delay"]
# Some kernels ask the user for zram's compressors by modprobe, which the machines do not have. Without ext4, a test
# says that it could not be run.
OPTIONAL = ["lzo", "lzo-rle", "ext4", "xfs"]
PARAMETERS = {
    "null_blk": "nr_devices=2 gb=1 irqmode=2 completion_nsec=1000000",
    "scsi_debug": "dev_size_mb=64 ndelay=5000000 lbpu=1",
    "zram": "num_devices=1",
}


@dataclass
class Kernel:
    """A kernel of the matrix, ready to boot."""

    name: str
    release: str
    package: str
    image: Path
    modules: Path


def suites(name):
    """Where Debian keeps a kernel of this name, which is the beginning of a version."""
    if name.split(".")[0] == "5":
        return ["bullseye", "bullseye-security"]
    if name in ("6.1", "6.12"):
        return ["bookworm", "bookworm-updates", "bookworm-security"]
    return ["trixie-backports", "sid"]


class Kernels(debian.Apt):
    """Packages of kernels."""

    def __init__(self, root, names):
        super().__init__(root, {suite for name in names for suite in suites(name)})
        self.packages = self._packages()

    def _packages(self):
        """Every (package, version)."""
        found, name = [], None
        for line in self.run("apt-cache failed", "apt-cache", "dumpavail").splitlines():
            if line.startswith("Package: linux-"):
                name = line[9:]
            elif line.startswith("Version: ") and name:
                found.append((name, line[9:]))
            elif not line:
                name = None
        return found

    def newest(self, name):
        """The packages of the newest kernel of this name: the version, and their names."""
        # The signed image and its unsigned twin carry the same kernel; from 6.19 on, the image
        # package only points to the one with the kernel and the one with the modules.
        pattern = re.compile(r"linux-(binary|image)-(\d+\.\d+\.\d\S*-cloud-amd64)(-unsigned)?$")
        known = set(self.packages)
        candidates = []
        for package, version in self.packages:
            match = pattern.match(package)
            if not match or not re.match(re.escape(name) + r"(?!\d)", match[2]):
                continue
            modules = f"linux-modules-{match[2]}"
            if match[1] == "binary":
                if (modules, version) in known:
                    candidates.append((version, 2, [package, modules]))
            elif (f"linux-binary-{match[2]}", version) not in known:
                candidates.append((version, 0 if match[3] else 1, [package]))
        if not candidates:
            raise Missing(f"no package of a kernel {name} for amd64 clouds was found in {', '.join(suites(name))}")
        newest = max(candidates, key=functools.cmp_to_key(by_version))
        return newest[0], newest[2]

    def unpack(self, packages, version, folder):
        """Download and unpack into a folder."""
        debs = folder / "debs"
        debs.mkdir(parents=True)
        self.run(
            f"{' and '.join(packages)} {version} could not be downloaded",
            "apt-get", "-qq", "download", *[f"{package}={version}" for package in packages], cwd=debs,
        )
        for deb in debs.iterdir():
            subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)


def by_version(a, b):
    """Debian's order of versions, then the better package."""
    if a[0] == b[0]:
        return a[1] - b[1]
    less = subprocess.run(["dpkg", "--compare-versions", a[0], "lt", b[0]], check=False).returncode == 0
    return -1 if less else 1


def fetch(apt, name, folder):
    """The newest kernel of this name, from the cache or the mirror."""
    version, packages = apt.newest(name)
    home = folder / f"{packages[0]}_{version}"
    # Kept for other tests, it may lack a module.
    if home.exists() and (not (home / "asked").exists() or (home / "asked").read_text() != asked()):
        shutil.rmtree(home)
    if not home.exists():
        folder.mkdir(parents=True, exist_ok=True)
        work = folder / f".new-{name}"
        shutil.rmtree(work, ignore_errors=True)
        apt.unpack(packages, version, work / "root")
        keep(work / "root", work / "kept", packages[0])
        (work / "kept").rename(home)
        shutil.rmtree(work)
    release = (home / "release").read_text()
    return Kernel(name, release, f"{packages[0]} {version}", home / "vmlinuz", home / "modules")


def asked():
    """The modules that are asked for."""
    return " ".join(OPTIONAL + REQUIRED)


def keep(root, home, package):
    """Of an unpacked package, keep the kernel and the modules that the tests need."""
    image = next(root.glob("**/vmlinuz*"), None)
    tree = next(root.glob("**/lib/modules/*/kernel"), root / "none").parent
    if image is None or tree == root:
        raise Missing(f"{package} has no kernel or no modules")
    (home / "modules").mkdir(parents=True)
    shutil.copy(image, home / "vmlinuz")
    (home / "release").write_text(tree.name)
    (home / "asked").write_text(asked())
    order = []
    # From 7.3 on, packages do not have this list.
    known = tree / "modules.builtin"
    built_in = {plain(Path(line).name) for line in known.read_text().splitlines()} if known.exists() else set()
    files = {plain(path.name): path for path in tree.glob("**/*.ko*")}

    def add(name, required):
        if name in order or plain(name) in built_in:
            return
        path = files.get(plain(name))
        if path is None:
            if required:
                raise Missing(f"{package} has no module {name}")
            return
        data = uncompressed(path)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in (depends[1].decode() if depends else "").split(","):
            if other:
                add(other, True)
        (home / "modules" / f"{name}.ko").write_bytes(data)
        order.append(name)

    for name in OPTIONAL:
        add(name, False)
    for name in REQUIRED:
        add(name, True)
    lines = [f"/matrix/modules/{name}.ko {PARAMETERS.get(name, '')}".rstrip() + "\n" for name in order]
    (home / "modules" / "order").write_text("".join(lines))


def plain(name):
    """A module's name, as the kernel itself writes it."""
    return name.split(".")[0].replace("-", "_")


def uncompressed(path):
    """A module's bytes."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, check=True).stdout
    return path.read_bytes()
