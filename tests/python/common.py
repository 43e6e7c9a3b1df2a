"""Code shared by the checks of the exports.

A check is called with folders that tests/export.rs has filled, one per model: an exported file, `lines.py` (the code that
`fmnist-gpu export` prints), `images.bin` (grey values, uint8 [N, 28, 28]) and `probabilities.bin` (our own predictions, float32
[N, 10]). It runs the printed code unchanged, predicts, and compares. If anything differs, it prints the reason and exits with 1.
"""

import os
import pathlib
import sys

import numpy as np

TOLERANCE = 1e-5
CLASS_NAMES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]


def main(check):
    """Runs `check` in every folder named on the command line."""
    for folder in map(pathlib.Path, sys.argv[1:]):
        before = os.getcwd()
        os.chdir(folder)
        print(f"{folder.name}: ", end="")
        check()
        os.chdir(before)


def require(condition, message):
    if not condition:
        print(message)
        sys.exit(1)


def images():
    """Grey values 0 to 255, float32 [N, 28, 28, 1]."""
    return np.fromfile("images.bin", np.uint8).reshape(-1, 28, 28, 1).astype(np.float32)


def run_lines():
    """Runs the printed code and returns its variables."""
    variables = {}
    exec(compile(pathlib.Path("lines.py").read_text(encoding="utf-8"), "lines.py", "exec"), variables)
    return variables


def compare(predict):
    """Compares `predict`, from images [n, 28, 28, 1] to probabilities [n, 10], with our own predictions at several batch sizes."""
    x = images()
    expected = np.fromfile("probabilities.bin", np.float32).reshape(-1, 10)
    require(len(x) == len(expected) and len(x) >= 100, f"{len(x)} images and {len(expected)} predictions")
    worst = 0.0
    for size in (1, 7, len(x)):
        found = np.asarray(predict(x[:size]))
        require(found.shape == (size, 10), f"batch of {size}: the result has shape {found.shape}")
        # Written so that NaN fails.
        difference = np.abs(found - expected[:size]).max()
        require(difference <= TOLERANCE, f"batch of {size}: probabilities differ by {difference:.3g}")
        worst = max(worst, float(difference))
    print(f"{len(x)} images agree within {worst:.2g}")
