# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The results of earlier runs with the same kscope, so that tools and kernels can be run in parts."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from machine import Done, Job, Result
from report import Column


class State:
    """A file, which holds for one build of kscope."""

    def __init__(self, path, kscope, anew):
        self.path = path
        self.kscope = hashlib.sha256(Path(kscope).read_bytes()).hexdigest()
        self.columns = {}
        if path.exists() and not anew:
            kept = json.loads(path.read_text())
            if kept["kscope"] == self.kscope:
                self.columns = {name: column(value) for name, value in kept["columns"].items()}

    def merge(self, new):
        """Put what a run found over what is known."""
        old = self.columns.get(new.name)
        if not old or (old.release, old.package) != (new.release, new.package):
            self.columns[new.name] = new
            return
        for boot, result in new.results.items():
            old.results[boot] = merged(old.results.get(boot), result)

    def write(self):
        """For the next run."""
        columns = {name: asdict(value) for name, value in self.columns.items()}
        self.path.write_text(json.dumps({"kscope": self.kscope, "columns": columns}))

    def has(self, kernels, tools):
        """Whether all of these were run on all of these."""
        def ran(name, tool):
            results = self.columns[name].results if name in self.columns else {}
            boots = ["main"] if name == "host" else ["main", "four-cpus"]
            return all(
                any(job.name.startswith(f"test {tool} ") for job in results[boot].jobs) if boot in results else False
                for boot in boots
            )
        return all(ran(name, tool) for name in kernels for tool in tools)


def column(value):
    """What write() made of one."""
    results = {boot: result(one) for boot, one in value["results"].items()}
    return Column(value["name"], value["release"], value["package"], results)


def result(value):
    done = {name: Done(**one) for name, one in value["done"].items()}
    return Result(**{**value, "jobs": [Job(**job) for job in value["jobs"]], "done": done})


def merged(old, new):
    """Both results of a boot; what went wrong in the old one counts until all of it was repeated."""
    if old is None:
        return new
    names = {job.name for job in new.jobs}
    kept = [job for job in old.jobs if job.name not in names]
    done = {job.name: old.done[job.name] for job in kept if job.name in old.done}
    return Result(
        kept + new.jobs,
        {**done, **new.done},
        new.notes + [note for note in old.notes if kept and note not in new.notes],
        new.complete and (old.complete or not kept),
        new.failure or (old.failure if kept else ""),
        old.seconds + new.seconds,
    )
