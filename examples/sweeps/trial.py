"""One trial of a sweep: `fmnist-gpu train` as a child process.

    with Trial("fmnist-gpu", "sweep/3", {"learning-rate": 0.003, "epochs": 5}) as trial:
        for epoch in trial:                      # a dict per line of `train --json`: epoch, step, timestamp, loss, val_accuracy, ...
            if is_hopeless(epoch):
                break                            # the end of `with` sends SIGTERM: the program saves a checkpoint and exits with 143

A run folder that exists is resumed from its newest checkpoint, so a trial that was killed, however, is simply run again.
"""

import ctypes
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

# The loss became infinite or NaN: the epochs before that stand.
DIVERGED = 1
LOCKED = "another training is writing into"


class Failed(Exception):
    """The program could not train; the message is what it wrote to standard error."""


def _die_with_parent():
    # Linux sends this signal to the child when its parent ends, even by SIGKILL: PR_SET_PDEATHSIG is 1.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Trial:
    def __init__(self, program, run, flags):
        self.program, self.run = str(program), Path(run)
        self.flags = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
        self.process = None
        # What the program says, kept beside the run.
        self.log = self.run.with_name(self.run.name + ".log")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def __iter__(self):
        """Yields the epochs that are done already, if the run is resumed, and then each new one as soon as it is done."""
        done = self.history()
        yield from done
        self._start()
        for line in self.process.stdout:
            record = json.loads(line)
            # The last line is the summary, which has no "epoch".
            if record.get("epoch", 0) > len(done):
                yield record
        code = self.process.wait()
        if code not in (0, DIVERGED):
            raise Failed(f"{self.run}: exit code {code}: {self._said()}")

    def history(self):
        """The epochs in the run folder."""
        path = self.run / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def stop(self):
        """Lets the program save a checkpoint and end; returns its exit code. Does nothing if it has ended or was not started."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
        self.process.stdout.close()
        return self.process.wait()

    def _start(self):
        # A child whose parent was killed may still be saving its checkpoint: nobody else may write into the run until it is done.
        for _ in range(120):
            self._launch()
            if self.process.stdout.peek(1) or self.process.wait() != 2 or LOCKED not in self._said():
                return
            time.sleep(0.5)

    def _launch(self):
        if (self.run / "config.json").exists():
            arguments = ["--resume", str(self.run)]
        else:
            # Whatever is there holds no run: its process was killed before it began.
            arguments = ["--out", str(self.run), "--force", *self.flags]
        self.run.parent.mkdir(parents=True, exist_ok=True)
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [self.program, "train", "--json", "--no-report", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def _said(self):
        with self.log.open() as log:
            log.seek(self.log_start)
            return log.read().strip()


def flags_of(arguments):
    """Turns ["--model", "mlp", "--epochs", "3"] into {"model": "mlp", "epochs": "3"}."""
    names = [name.removeprefix("--") for name in arguments[::2]]
    if len(arguments) % 2 or not all(name.startswith("--") for name in arguments[::2]):
        raise SystemExit(f"flags of `fmnist-gpu train` come in pairs of --name and value, but these are: {' '.join(arguments)}")
    return dict(zip(names, arguments[1::2]))
