# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Packages of Debian's suites, by an apt state that is not the host's: for the matrix and the bench."""

import subprocess

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Missing(Exception):
    """What can't be had: the sentence says why."""


class Apt:
    """An apt state of its own, from the mirrors that this host uses, for suites that it does not."""

    def __init__(self, root, suites, arch="amd64"):
        self.root = root
        wanted = sorted(suites)
        for folder in ("state/lists/partial", "cache/archives/partial", "empty"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "state/status").touch()
        (root / "sources.list").write_text("".join(self._sources(wanted)))
        # With -c, as only a file that is read after the host's own can drop the host's hooks.
        (root / "apt.conf").write_text(f"""\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{root}/state";
Dir::State::lists "{root}/state/lists";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "{root}/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/empty";
""")
        self.run(f"the package lists of {', '.join(wanted)} could not be fetched", "apt-get", "-qq", "update")

    @staticmethod
    def _sources(wanted):
        """The configured sources, with other suites."""
        format_ = "$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)"
        targets = subprocess.run(
            ["apt-get", "indextargets", "--format", format_, "Created-By: Packages"],
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout
        mirrors = {}
        for line in targets.splitlines():
            origin, component, codename, uri = line.split("|")
            if (origin, component) == ("Debian", "main"):
                mirrors.setdefault(codename.endswith("-security"), uri)
        for suite in wanted:
            mirror = mirrors.get(suite.endswith("-security"))
            if mirror is None:
                raise Missing(f"no source of {suite} can be derived from those of this host (run apt-get update)")
            yield f"deb [target=Packages signed-by={KEYRING}] {mirror} {suite} main\n"

    def run(self, failure, tool, *args, cwd=None):
        """What a tool of apt says."""
        command = [tool, "-c", self.root / "apt.conf", *args]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
        if done.returncode != 0:
            raise Missing(f"{failure}: {' '.join(done.stderr.split())}")
        return done.stdout
