"""Code shared by the Python peers: command line, data, timing and output.

Every peer trains the same two models with the same Adam settings on the same images, checks its number of parameters, and
prints one JSON object to standard output. Images are `[N, 28, 28]`, labels `[N]`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PARAMETERS = {"mlp": 101_770, "cnn": 421_642}
EPOCHS = 5
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7
# Inference and evaluation compute the sum of the losses and the number of correct answers.
EVALUATION_BATCH = 1000


def parse_args(variants: Sequence[str]) -> argparse.Namespace:
    """The command line of every peer; the first of `variants` is the default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=sorted(PARAMETERS), default="cnn")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--mode",
        choices=["train", "inference", "job"],
        default="train",
        help="job: five epochs and the evaluation on the test set",
    )
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time after the warm-up")
    parser.add_argument("--data-dir", type=Path, help="folder with the four IDX files; random images if omitted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tf32", action="store_true", help="allow TF32 on an NVIDIA GPU")
    args = parser.parse_args()
    if args.batch_size < 1 or args.seconds <= 0:
        parser.error("--batch-size and --seconds must be positive")
    if args.mode == "job" and args.data_dir is None:
        parser.error("--mode job requires --data-dir")
    return args


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Reads an IDX file of bytes, gzipped or plain."""
    packed, plain = folder / f"{name}.gz", folder / name
    raw = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{folder / name}: not an IDX file of bytes")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def load(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns training images scaled to [0, 1], training labels, test images, test labels."""
    if args.data_dir is None:
        random = np.random.default_rng(0)
        sets = [
            part
            for n in (60_000, 10_000)
            for part in (random.integers(0, 256, (n, 28, 28), np.uint8), random.integers(0, 10, n, np.uint8))
        ]
    else:
        sets = [
            read_idx(args.data_dir, f"{part}-{kind}-ubyte")
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
    x, y, x_test, y_test = sets
    scale = np.float32(255)
    return x / scale, y.astype(np.int32), x_test / scale, y_test.astype(np.int32)


def check_parameters(args: argparse.Namespace, count: int) -> None:
    if count != PARAMETERS[args.model]:
        raise SystemExit(f"{args.model} has {count} parameters, expected {PARAMETERS[args.model]}")


def measure(args: argparse.Namespace, run: Callable[[int], None], quantum: int = 1) -> dict[str, Any]:
    """Times `run(n)`, which runs `n` steps and waits for the device.

    `n` is always a multiple of `quantum`, because a compiled scan has a fixed length. The first two calls compile and tune;
    after a warm-up of a fifth of `--seconds`, about ten chunks are timed, but at least three.
    """
    run(quantum)
    run(quantum)
    start = time.perf_counter()
    run(quantum)
    once = time.perf_counter() - start
    n = quantum * max(1, math.ceil(args.seconds / 10 / once))
    start = time.perf_counter()
    while time.perf_counter() - start < args.seconds / 5:
        run(n)
    seconds: list[float] = []
    while sum(seconds) < args.seconds or len(seconds) < 3:
        start = time.perf_counter()
        run(n)
        seconds.append(time.perf_counter() - start)
    return speeds([n * args.batch_size / s for s in seconds])


def speeds(rates: Sequence[float]) -> dict[str, Any]:
    """Median, minimum and maximum of the rates of the chunks."""
    return {
        "images_per_second": statistics.median(rates),
        "images_per_second_min": min(rates),
        "images_per_second_max": max(rates),
        "chunks": len(rates),
    }


def report(args: argparse.Namespace, peer: str, version: str, device: str, figures: dict[str, Any]) -> None:
    """Prints the line that the caller reads."""
    who = {"peer": peer, "variant": args.variant, "version": version, "device": device}
    what = {"model": args.model, "batch_size": args.batch_size, "mode": args.mode, "seed": args.seed, "tf32": args.tf32}
    print(json.dumps({**who, **what, **figures}), flush=True)
