#!/usr/bin/env python3
"""Measure fmnist-gpu and its peers in turn on this machine, and write a JSON file and a Markdown table.

    python3 bench/compare.py --data-dir DIR

Every figure comes from a separate process. Each round runs every system once per task, one after the other, so that a
busy neighbour affects all of them alike. Results are saved after every task. Only Python's standard library is needed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
OURS = "ours"
JOB_BATCH, JOB_EPOCHS, TRAINING_IMAGES = 32, 5, 60_000


class PeerKind(NamedTuple):
    """A framework: its script, the modules its interpreter must be able to import, its distributions, its variants."""

    script: str
    imports: tuple[str, ...]
    distributions: tuple[str, ...]
    variants: tuple[str, ...]


KINDS = {
    "keras": PeerKind(
        "keras_peer.py", ("keras", "tensorflow", "numpy"), ("tensorflow", "tensorflow-cpu"), ("fit", "tuned")
    ),
    "torch": PeerKind("torch_peer.py", ("torch", "numpy"), ("torch", "numpy"), ("eager", "compiled")),
    "jax": PeerKind(
        "jax_peer.py", ("jax", "numpy"), ("jax", "jax-cuda12-plugin", "jax-cuda13-plugin"), ("scan", "step")
    ),
    "burn": PeerKind("burn", (), (), ("fused",)),
}
# Burn has only one variant, so its name has no suffix.
PEERS = {f"{kind}-{v}" if kind != "burn" else "burn": (kind, v) for kind, k in KINDS.items() for v in k.variants}


@dataclass(frozen=True, order=True)
class Task:
    """One cell of the tables."""

    model: str
    mode: str
    batch_size: int

    @property
    def key(self) -> str:
        return f"{self.model}/{self.mode}/{self.batch_size}"

    @property
    def words(self) -> str:
        what = {"train": "training", "inference": "inference", "job": "five epochs and evaluation"}[self.mode]
        return f"{self.model}: {what} at batch {self.batch_size}"


@dataclass
class System:
    """Ours or a peer: how to start it, and how much is installed for it."""

    name: str
    command: list[str]
    kind: str = OURS
    variant: str = ""
    installed_mb: float | None = None
    environment: dict[str, str] = field(default_factory=dict)


class Run(NamedTuple):
    """A process that has ended."""

    seconds: float
    peak_memory_mb: float
    code: int
    timed_out: bool
    stdout: str
    stderr: str


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- figures ---------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum and maximum of the rounds."""
    return {"rounds": list(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def times_ours(ours: Mapping[str, Any], peer: Mapping[str, Any], more_is_better: bool) -> float:
    """How many times as good as the peer ours is; below one, the peer is better."""
    return ours["median"] / peer["median"] if more_is_better else peer["median"] / ours["median"]


def overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the ranges of the rounds overlap, so that the difference may be chance."""
    return a["min"] <= b["max"] and b["min"] <= a["max"]


def number(value: float) -> str:
    """Formats about three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    text = number(figure["median"])
    return text if len(figure["rounds"]) == 1 else f"{text} ({number(figure['min'])} to {number(figure['max'])})"


def slug(device: str, cores: int | None) -> str:
    """A file name from an adapter's name, with the number of cores for a software adapter, whose speed depends on it."""
    plain = re.sub(r"\([^)]*\)", " ", device).lower()
    words = re.findall(r"[a-z0-9]+", plain)
    software = any(name in words for name in ("llvmpipe", "lavapipe", "swiftshader", "warp")) or "basic render" in plain
    if software and cores:
        words += [str(cores), "cores" if cores > 1 else "core"]
    return "-".join(words) or "device"


# --- processes -------------------------------------------------------------------------------------------------------


def run_process(command: Sequence[str], environment: Mapping[str, str], timeout: float) -> Run:
    """Run a process until it exits or reaches the time limit; measure the wall-clock time and the kernel's peak memory.

    On Linux the peak includes the memory of this small process at the time it started the other, about 20 MB.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **environment},
            cwd=ROOT,
            start_new_session=True,  # so that the time limit also ends its children
        )
        expired = threading.Event()

        def end() -> None:
            expired.set()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # interrupted: leave no process behind
            end()
            raise
        finally:
            timer.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Run(seconds, usage.ru_maxrss * unit / 1e6, process.returncode, expired.is_set(), *texts)


def last_json(text: str) -> dict[str, Any]:
    """The JSON object that a program printed: the whole output, or the last line that is a JSON object."""
    for part in (text, *reversed(text.splitlines())):
        try:
            value = json.loads(part)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise ValueError("no JSON object in its output")


def command_of(system: System, task: Task, options: argparse.Namespace, seed: int, scratch: Path) -> list[str]:
    if system.kind == OURS:
        device = ["--device", options.device] if options.device else []
        model = ["--model", task.model, "--batch-size", str(task.batch_size), "--json", "--quiet", *device]
        if task.mode == "job":
            data = ["--dataset", "fashion-mnist", "--data-dir", str(options.data_dir)]
            out = ["--epochs", str(JOB_EPOCHS), "--seed", str(seed), "--out", str(scratch / f"{task.model}-{seed}")]
            return [*system.command, "train", "--no-report", *model, *data, *out]
        return [*system.command, "bench", *model, "--mode", task.mode, "--seconds", str(options.seconds)]
    command = [*system.command, "--variant", system.variant, "--model", task.model, "--mode", task.mode]
    command += ["--batch-size", str(task.batch_size), "--seconds", str(options.seconds), "--seed", str(seed)]
    if task.mode == "job":
        command += ["--data-dir", str(options.data_dir)]
    return command + (["--tf32"] if options.tf32 else [])


def figures_of(system: System, task: Task, output: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in the output of a system, under the names used in the result file."""
    if system.kind == OURS and task.mode != "job":
        output = {**output, **output["results"][0]}
    if task.mode == "job":
        figures = {"test_accuracy": float(output["test_accuracy"])}
    else:
        figures = {"images_per_second": float(output["images_per_second"])}
    if "device_memory_mb" in output:
        figures["device_memory_mb"] = float(output["device_memory_mb"])
    return figures


# --- the machine and the installed peers -----------------------------------------------------------------------------


def read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", read_text("/proc/cpuinfo"), re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def os_name() -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text("/etc/os-release"), re.MULTILINE)
    return f"{match[1] if match else platform.system()}, {platform.system()} {platform.release()}"


def n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine(ours: System, options: argparse.Namespace) -> dict[str, Any]:
    """Device and driver as reported by our program, and the rest of the machine."""
    command = [*ours.command, "bench", "--model", "mlp", "--batch-size", "32", "--mode", "inference", "--seconds", "0.2"]
    command += ["--json", "--quiet", *(["--device", options.device] if options.device else [])]
    run = run_process(command, {}, options.timeout)
    if run.code != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr[-2000:]}")
    output = last_json(run.stdout)
    version = subprocess.run([*ours.command, "--version"], capture_output=True, text=True).stdout.split()
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "device": output["device"],
        "driver": output["driver"],
        "ours_version": version[-1] if version else "unknown",
        "cpu": cpu_name(),
        "cores": n_cores(),
        "os": os_name(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "commit_modified": None if changes is None else bool(changes),
    }


# Run by a peer's own interpreter. In a virtual environment everything was installed for the peer; elsewhere, the
# distributions and their dependencies are counted, but not the dependencies that only an extra requires.
MEASURE_SIZE = r"""
import json, re, sys, sysconfig
from importlib import metadata
from pathlib import Path
size = lambda paths: sum(p.stat().st_size for p in paths if p.is_file() and not p.is_symlink())
if sys.prefix != sys.base_prefix:
    total = 0
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if not re.match(r"(pip|setuptools|wheel|_distutils_hack|pkg_resources)\b", entry.name):
                total += size([entry] if entry.is_file() else entry.rglob("*"))
else:
    todo, seen, total = sys.argv[1:], set(), 0
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen: continue
        seen.add(name)
        try: dist = metadata.distribution(name)
        except metadata.PackageNotFoundError: continue
        total += size(Path(dist.locate_file(f)) for f in dist.files or [])
        for line in dist.requires or []:
            # The CUDA libraries are extras of these two.
            if not re.search(r"\bextra\b", line) or name.startswith(("jax-cuda", "cuda-toolkit")):
                todo.append(re.match(r"[\w.-]+", line)[0])
print(json.dumps(total / 1e6))
"""


def can_import(python: str, kind: PeerKind) -> bool:
    code = "import sys; from importlib.util import find_spec; sys.exit(any(find_spec(m) is None for m in sys.argv[1:]))"
    try:
        return subprocess.run([python, "-c", code, *kind.imports], capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def find_python(name: str, given: Mapping[str, str]) -> str | None:
    """The interpreter for a framework: the one given by --python, the one in bench/.venv, or any that can import it."""
    kind = KINDS[name]
    if name in given:
        if not can_import(given[name], kind):
            raise SystemExit(f"--python {name}={given[name]}: this interpreter cannot import {', '.join(kind.imports)}")
        return given[name]
    own = BENCH / ".venv" / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    for python in (str(own), shutil.which("python3"), sys.executable):
        if python and can_import(python, kind):
            return python
    return None


def find_peers(names: Sequence[str] | None, options: argparse.Namespace) -> list[System]:
    """The peers that are installed. It is an error if a peer requested by name is not installed."""
    systems: list[System] = []
    for name in names or PEERS:
        if name not in PEERS:
            raise SystemExit(f"unknown peer {name}: choose from {', '.join(PEERS)}")
        kind, variant = PEERS[name]
        known = next((s for s in systems if s.kind == kind), None)
        if known:
            systems.append(System(name, known.command, kind, variant, known.installed_mb, known.environment))
            continue
        size: float | None = None
        if kind == "burn":
            binary = options.burn or BENCH / ".venv/burn/release/burn-peer"
            command = [str(Path(binary).resolve())] if Path(binary).is_file() else None
            size = Path(binary).stat().st_size / 1e6 if command else None
        else:
            python = find_python(kind, options.python)
            command = [python, str(BENCH / "peers" / KINDS[kind].script)] if python else None
            if python:
                words = [python, "-c", MEASURE_SIZE, *KINDS[kind].distributions]
                measured = subprocess.run(words, capture_output=True, text=True)
                size = (json.loads(measured.stdout) or None) if measured.returncode == 0 else None
        if command:
            systems.append(System(name, command, kind, variant, size, {"PYTHONDONTWRITEBYTECODE": "1"}))
        elif names:
            raise SystemExit(f"{name} is not installed: run bench/setup.sh {kind}")
        else:
            say(f"{name}: not installed, skipped (run bench/setup.sh {kind} to install it)")
    return systems


# --- rounds ----------------------------------------------------------------------------------------------------------


class Results:
    """Everything that was measured, in the form of the JSON file."""

    def __init__(self, about: Mapping[str, Any], options: Mapping[str, Any], systems: Iterable[System]) -> None:
        self.data: dict[str, Any] = {
            **about,
            "options": dict(options),
            "rounds_done": 0,
            "load_average": [],
            "systems": {
                s.name: {
                    "version": about.get("ours_version") if s.kind == OURS else None,
                    "variant": s.variant or None,
                    "device": None,
                    "installed_mb": s.installed_mb,
                    "results": {},
                    "failures": [],
                    "skipped": {},
                }
                for s in systems
            },
        }

    def system(self, name: str) -> dict[str, Any]:
        return self.data["systems"][name]

    def add(self, system: System, task: Task, run: Run, output: Mapping[str, Any]) -> None:
        entry = self.system(system.name)
        entry["version"] = output.get("version") or entry["version"]
        entry["device"] = output.get("device") or entry["device"]
        figures = {**figures_of(system, task, output), "peak_memory_mb": run.peak_memory_mb}
        if task.mode == "job":
            figures["seconds"] = run.seconds
        result = entry["results"].setdefault(task.key, {})
        for name, value in figures.items():
            result[name] = spread([*result.get(name, {"rounds": []})["rounds"], value])

    def fail(self, system: System, task: Task, reason: str) -> None:
        self.system(system.name)["failures"].append({"task": task.key, "reason": reason})

    def failed(self, system: System, task: Task) -> bool:
        return any(f["task"] == task.key for f in self.system(system.name)["failures"])

    def figure(self, name: str, task: Task, figure: str) -> dict[str, Any] | None:
        return self.data["systems"].get(name, {}).get("results", {}).get(task.key, {}).get(figure)

    def job_estimate(self, name: str, model: str) -> float:
        """Seconds that a job would take at the speed measured so far; zero if no speed was measured."""
        rate = self.figure(name, Task(model, "train", JOB_BATCH), "images_per_second")
        return JOB_EPOCHS * TRAINING_IMAGES / rate["median"] if rate else 0.0


def reason_of(run: Run, timeout: float) -> str:
    lines = [line for line in run.stderr.splitlines() if line.strip()][-6:]
    ended = f"stopped after {timeout:.0f} s" if run.timed_out else f"exit code {run.code}"
    return "\n".join([ended, *lines])


def one_run(results: Results, system: System, task: Task, options: argparse.Namespace, seed: int, scratch: Path) -> None:
    command = command_of(system, task, options, seed, scratch)
    try:
        run = run_process(command, system.environment, options.timeout)
    except OSError as error:
        results.fail(system, task, str(error))
        say(f"    failed: {error}")
        return
    try:
        if run.code != 0:
            raise ValueError(reason_of(run, options.timeout))
        results.add(system, task, run, last_json(run.stdout))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"no {error} in its output" if isinstance(error, KeyError) else str(error)
        results.fail(system, task, reason)
        say("    failed: " + reason.replace("\n", "\n      "))
        return
    shown = results.figure(system.name, task, "seconds" if task.mode == "job" else "images_per_second")
    if shown:
        say(f"    {number(shown['rounds'][-1])} {'s' if task.mode == 'job' else 'images/s'}")


def measure_all(
    results: Results, systems: Sequence[System], tasks: Sequence[Task], options: argparse.Namespace, name: str
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for i_round in range(options.rounds):
            for task in tasks:
                if task.mode == "job" and i_round >= options.job_rounds:
                    continue
                # Each round starts with a different system, so that none always runs on a machine heated by the same one.
                first = i_round % len(systems)
                for system in [*systems[first:], *systems[:first]]:
                    head = f"round {i_round + 1}/{options.rounds}: {task.words}: {system.name}"
                    if results.failed(system, task):
                        say(f"{head}: failed before, skipped")
                        continue
                    why = None
                    if task.mode != "job":
                        if system.name in options.smallest_batch and task.batch_size > min(options.batch_sizes):
                            why = "on request"
                    else:
                        estimate = results.job_estimate(system.name, task.model)
                        if system.name in options.skip_job:
                            why = "on request"
                        elif estimate > options.timeout:
                            why = f"it would take about {estimate / 60:.0f} minutes, more than --timeout"
                    if why:
                        results.system(system.name)["skipped"][task.key] = why
                        say(f"{head}: skipped: {why}")
                        continue
                    say(head)
                    one_run(results, system, task, options, i_round, Path(scratch))
                write(results, tasks, options.out, name)
            results.data["rounds_done"] = i_round + 1
            results.data["load_average"].append(os.getloadavg()[0])
            write(results, tasks, options.out, name)


# --- files -----------------------------------------------------------------------------------------------------------


def write_whole(path: Path, text: str) -> None:
    """Write to a temporary file and rename it, so that a reader never sees a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    aside.replace(path)


def write(results: Results, tasks: Sequence[Task], folder: Path, name: str) -> None:
    write_whole(folder / f"{name}.json", json.dumps(results.data, indent=2) + "\n")
    write_whole(folder / f"{name}.md", markdown(results, tasks))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def ratio_cell(results: Results, name: str, task: Task, figure: str, more_is_better: bool) -> str:
    ours, peer = results.figure(OURS, task, figure), results.figure(name, task, figure)
    if ours is None or peer is None or name == OURS:
        return "-"
    return f"{times_ours(ours, peer, more_is_better):.2f}"


def where_peers_lead(results: Results, tasks: Sequence[Task]) -> str:
    """Lists the tasks in which each peer is faster than ours, by the medians."""
    sentences = []
    for name in results.data["systems"]:
        if name == OURS:
            continue
        ahead = []
        for task in tasks:
            figure, more = ("seconds", False) if task.mode == "job" else ("images_per_second", True)
            ours, peer = results.figure(OURS, task, figure), results.figure(name, task, figure)
            if ours is None or peer is None:
                continue
            ratio = times_ours(ours, peer, more)
            if ratio < 1:
                doubt = ", but the rounds of the two overlap" if overlap(ours, peer) else ""
                ahead.append(f"{task.words} ({1 / ratio:.2f} times as fast{doubt})")
        if ahead:
            sentences.append(f"- `{name}` is faster than ours in {'; '.join(ahead)}.")
    return "\n".join(sentences) or "No peer is faster than ours in any figure measured here."


def markdown(results: Results, tasks: Sequence[Task]) -> str:
    data = results.data
    systems = data["systems"]
    options = data["options"]
    load = ", ".join(f"{value:.1f}" for value in data["load_average"]) or "not recorded"
    commit = f"{data['commit']}{', with changes' if data['commit_modified'] else ''}" if data["commit"] else "unknown"
    lines = [
        f"# {data['device']}",
        "",
        f"{data['driver']}; {data['cpu']}, {data['cores']} cores; {data['os']}. Version {data['ours_version']}, commit {commit}, "
        f"{data['date'][:10]}.",
        f"Rounds: {data['rounds_done']}, {number(options['seconds'])} s per figure and round; median (min to max). Load average "
        f"after each round: {load}. Written by `bench/compare.py`; `bench/README.md` explains what is measured and how.",
        "",
        "## Where a peer is faster",
        "",
        where_peers_lead(results, tasks),
        "",
    ]
    speeds = [t for t in tasks if t.mode != "job"]
    for model in dict.fromkeys(t.model for t in speeds):
        chosen = [t for t in speeds if t.model == model]
        head = [f"{'training' if t.mode == 'train' else 'inference'}, {t.batch_size}" for t in chosen]
        lines += [f"## `{model}`: images/s, by batch size", ""]
        lines += table(
            ["", *head], ([f"`{n}`", *(cell(results.figure(n, t, "images_per_second")) for t in chosen)] for n in systems)
        )
        lines += ["Ours divided by the peer; below 1, the peer is faster.", ""]
        peers = [n for n in systems if n != OURS]
        lines += table(
            ["", *head],
            ([f"`{n}`", *(ratio_cell(results, n, t, "images_per_second", True) for t in chosen)] for n in peers),
        )
    for task in (t for t in tasks if t.mode == "job"):
        lines += [f"## {task.words}, from process start to exit", ""]
        rows = []
        for n in systems:
            accuracy = results.figure(n, task, "test_accuracy")
            rows.append(
                [
                    f"`{n}`",
                    cell(results.figure(n, task, "seconds")),
                    ratio_cell(results, n, task, "seconds", False),
                    f"{accuracy['median']:.4f}" if accuracy else "-",
                    cell(results.figure(n, task, "peak_memory_mb")),
                ]
            )
        lines += table(["", "seconds", "speedup of ours", "test accuracy", "peak memory, MB"], rows)
    lines += ["## Systems", ""]
    rows = []
    for n, system in systems.items():
        memory = [r["peak_memory_mb"] for k, r in system["results"].items() if "/job/" not in k]
        on_device = [r["device_memory_mb"]["max"] for r in system["results"].values() if "device_memory_mb" in r]
        rows.append(
            [
                f"`{n}`",
                system["version"] or "-",
                system["device"] or "-",
                "-" if system["installed_mb"] is None else number(system["installed_mb"]),
                number(max(m["max"] for m in memory)) if memory else "-",
                number(max(on_device)) if on_device else "-",
            ]
        )
    lines += table(
        ["", "version", "device", "installed, MB", "peak memory of a speed run, MB", "reported device memory, MB"], rows
    )
    notes = [
        f"- `{n}`, {key}: skipped: {why}." for n, system in systems.items() for key, why in system["skipped"].items()
    ] + [
        f"- `{n}`, {failure['task']}: failed: {' '.join(failure['reason'].split())[:300]}"
        for n, system in systems.items()
        for failure in system["failures"]
    ]
    if notes:
        lines += ["## Skipped and failed", "", *notes, ""]
    return "\n".join(lines).rstrip() + "\n"


# --- command line ----------------------------------------------------------------------------------------------------


def names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def default_data_dir() -> Path | None:
    """The folder that the program itself would use, in the simple cases."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmnist-gpu"
    for place in (os.environ.get("FMNIST_DATA_DIR"), cache):
        if place and any(Path(place).glob("t10k-labels-idx1-ubyte*")):
            return Path(place)
    return None


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--ours", type=Path, default=ROOT / "target/release/fmnist-gpu", help="the fmnist-gpu program")
    parser.add_argument("--burn", type=Path, help="the Burn peer's program [default: where bench/setup.sh builds it]")
    parser.add_argument("--peers", type=names, help=f"a list from {','.join(PEERS)} [default: all that are installed]")
    parser.add_argument(
        "--python", action="append", default=[], metavar="KIND=PATH", help="interpreter for keras, torch or jax"
    )
    parser.add_argument("--models", type=names, default=["cnn", "mlp"])
    parser.add_argument("--batch-sizes", type=names, default=["32", "256", "1024"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time per figure and round")
    parser.add_argument("--data-dir", type=Path, help="folder with the four files of Fashion-MNIST, for the jobs")
    parser.add_argument("--no-job", action="store_true", help="skip the five epochs with evaluation")
    parser.add_argument("--job-rounds", type=int, help="number of rounds that run the jobs [default: --rounds]")
    parser.add_argument("--skip-job", type=names, default=[], metavar="NAMES", help="systems that do not run the jobs")
    parser.add_argument("--smallest-batch", type=names, default=[], metavar="NAMES",
                        help="systems that are measured only at the smallest batch size, because others would take too long")
    parser.add_argument("--tf32", action="store_true", help="let the peers use TF32 on an NVIDIA GPU")
    parser.add_argument("--device", help="device for fmnist-gpu: see fmnist-gpu bench --help")
    parser.add_argument("--timeout", type=float, default=900.0, help="time limit of one run, seconds")
    parser.add_argument("--out", type=Path, default=BENCH / "results", help="folder for the two result files")
    parser.add_argument("--name", help="name of the result files, without extension [default: derived from the device name]")
    options = parser.parse_args(words)
    given: dict[str, str] = {}
    for pair in options.python:
        kind, _, path = pair.partition("=")
        if kind not in KINDS or kind == "burn" or not path:
            parser.error(f"--python {pair}: expected keras=PATH, torch=PATH or jax=PATH")
        given[kind] = path
    options.python = given
    try:
        options.batch_sizes = [int(size) for size in options.batch_sizes]
    except ValueError:
        parser.error("--batch-sizes: expected whole numbers")
    if options.rounds < 1 or options.seconds <= 0 or min(options.batch_sizes, default=0) < 1:
        parser.error("--rounds, --seconds and --batch-sizes must be positive")
    if not set(options.models) <= {"cnn", "mlp"} or not options.models:
        parser.error("--models: expected cnn, mlp or both")
    if unknown := {*options.skip_job, *options.smallest_batch} - {OURS, *PEERS}:
        parser.error(f"--skip-job, --smallest-batch: unknown system {', '.join(sorted(unknown))}: choose from ours, {', '.join(PEERS)}")
    options.job_rounds = options.rounds if options.job_rounds is None else options.job_rounds
    options.data_dir = options.data_dir or default_data_dir()
    return options


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """Speeds come first: they tell whether a job fits into the time limit."""
    tasks = [Task(m, mode, b) for m in options.models for mode in ("train", "inference") for b in options.batch_sizes]
    if options.no_job:
        return tasks
    if options.data_dir is None:
        say("no --data-dir: skipping the jobs")
        return tasks
    return tasks + [Task(model, "job", JOB_BATCH) for model in options.models]


def main() -> int:
    options = parse_args()
    if options.data_dir is not None:
        options.data_dir = options.data_dir.resolve()
    if not options.ours.is_file():
        raise SystemExit(f"{options.ours} does not exist: run cargo build --release")
    ours = System(OURS, [str(options.ours.resolve())], installed_mb=options.ours.stat().st_size / 1e6)
    systems = [ours, *find_peers(options.peers, options)]
    tasks = tasks_of(options)
    about = machine(ours, options)
    name = options.name or slug(about["device"], about["cores"])
    say(f"{about['device']}: {', '.join(s.name for s in systems)}; {len(tasks)} tasks, {options.rounds} rounds")
    chosen = {k: getattr(options, k) for k in ("models", "batch_sizes", "rounds", "job_rounds", "seconds", "timeout", "tf32")}
    results = Results(about, chosen, systems)
    try:
        measure_all(results, systems, tasks, options, name)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    say(f"wrote {options.out / name}.json and .md")
    return 1 if any(s["failures"] for s in results.data["systems"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
