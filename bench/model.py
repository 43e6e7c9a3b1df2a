#!/usr/bin/env python3
"""Predict how long a step takes on a GPU, from launches, rounds of tiles, loads and bytes.

    python3 bench/model.py          # the standard kernels beside what an H200 took, then the candidates of autotune
    python3 bench/model.py --fit    # fit the constants again, to the figures in bench/results

Eight constants describe the adapter; everything else is counted: the dispatches of a step, the workgroups of each, the
rounds of 16 steps that a workgroup takes, and the loads of an invocation in a round. The counts follow src/ops; the
tests compare them with the recorded profile. Only Python's standard library is needed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"
LANES = 256  # invocations of a workgroup with tiles
STEPS = 16  # steps of the inner dimension in a round
PIXELS, CLASSES, HIDDEN = 784, 10, 128
# Height and width, input channels, output channels.
CONVOLUTIONS = {"conv1": (28, 1, 32), "conv2": (14, 32, 64)}
PARAMETERS = {"mlp": 101_770, "cnn": 421_642}


@dataclass(frozen=True)
class Adapter:
    """What one GPU needs, in microseconds. Fitted to figures of an NVIDIA H200 (driver 580.159.04)."""

    timestamps: float = 5.17  # a pair of timestamps around an empty dispatch
    launch: float = 2.61  # from one dispatch to the next that waits for it
    round: float = 0.308  # a round's multiply-adds and its two barriers
    load: float = 0.0543  # one load, with its index, of each invocation of a workgroup
    tile: float = 1.62  # a tile's first fetch and its stores
    terabytes_per_second: float = 4.48
    softmax: float = 1.22  # its one workgroup, without rows
    row: float = 0.0257  # a row in it


H200 = Adapter()
CORES = 132  # multiprocessors of an H200


@dataclass(frozen=True)
class Tiles:
    """`SharedTiles` of src/ops: the rows that an invocation sums, and the workgroups that long sums are split for."""

    rows_each: int = 4
    workgroups: int = 128

    def tile(self, columns: int) -> tuple[int, int]:
        """Rows and columns of a tile for that many columns."""
        if columns <= 32:
            return 128, 32
        return (128, 64) if self.rows_each == 8 else (64, 64)

    def count(self, width: int, rows: int, columns: int) -> int:
        """Tiles of `rows` x `columns`, made for `width` columns."""
        tile_rows, tile_columns = self.tile(width)
        return ceil(rows, tile_rows) * ceil(columns, tile_columns)

    def steps_per_part(self, tiles: int, inner: int) -> int:
        """Steps of each part of a sum over `inner` steps."""
        parts = 1 if inner <= 16 * STEPS else ceil(self.workgroups, tiles)
        return min(ceil(ceil(inner, parts), STEPS) * STEPS, 32_768)

    def loads(self, width: int, by_4: bool) -> tuple[float, float]:
        """Loads of an invocation in a round, of the left and of the right operand: the mean over the workgroup."""
        rows, columns = self.tile(width)
        values = rows * STEPS / LANES, columns * STEPS / LANES
        return (values[0] / 4, values[1] / 4) if by_4 else values


# The candidates of autotune.
CANDIDATES = [Tiles(rows_each, workgroups) for rows_each in (4, 8) for workgroups in (64, 128, 256, 512)]


@dataclass(frozen=True)
class Forms:
    """Candidates of autotune that no GPU has timed."""

    small_filters: bool = False  # the first filter's gradient in registers
    loads_by_4: bool = False  # four values per load, where channels come in fours
    head: bool = False  # from the parts of the first dense layer to the gradients of the second in two dispatches; the MLP's first layer gathers its images
    fused_update: bool = False  # the optimizer finishes gradients


TODAY = Forms()


class Group(NamedTuple):
    """Workgroups that do the same."""

    workgroups: int
    rounds: float
    loads: float  # of an invocation, in a round
    more: float = 0.0  # loads and stores of an invocation beyond those of a tile, after the rounds


@dataclass(frozen=True)
class Dispatch:
    """What one dispatch computes and moves."""

    name: str
    groups: tuple[Group, ...] = ()
    megabytes: float = 0.0
    rows: int = 0  # of softmax
    invocations: int = 0  # of a kernel without tiles

    @property
    def workgroups(self) -> int:
        """Workgroups in all."""
        return sum(group.workgroups for group in self.groups) or max(1, ceil(self.invocations, 64))

    def us(self, adapter: Adapter) -> float:
        """Microseconds of work, without the launch."""
        moved = self.megabytes / adapter.terabytes_per_second
        if self.rows:
            return adapter.softmax + adapter.row * self.rows
        if not self.groups:
            return moved
        each = [
            group.rounds * (adapter.round + adapter.load * group.loads) + adapter.tile + adapter.load * group.more
            for group in self.groups
        ]
        # The tiles of one core take turns. With few tiles the fullest core decides; many even out.
        total = sum(group.workgroups * us for group, us in zip(self.groups, each))
        per_core = self.workgroups / CORES
        fullest = math.ceil(per_core) if per_core < 4 else per_core
        return max(*each, total / self.workgroups * fullest, moved)


def ceil(a: int, b: int) -> int:
    """`a / b`, rounded up."""
    return -(-a // b)


def floats(count: float) -> float:
    """Megabytes of that many numbers in single precision."""
    return 4e-6 * count


def forward(model: str, n: int, tiles: Tiles, forms: Forms) -> tuple[list[Dispatch], int]:
    """The forward pass up to the logits, and the parts of the first dense layer's sum."""
    made = [Dispatch("gather", megabytes=5e-6 * n * PIXELS, invocations=n * PIXELS // 4)]
    inputs = PIXELS
    if model == "cnn":
        for name, (size, channels, filters) in CONVOLUTIONS.items():
            positions = n * size * size
            loads = tiles.loads(filters, forms.loads_by_4 and channels % 4 == 0)
            group = Group(tiles.count(filters, positions, filters), ceil(9 * channels, STEPS), sum(loads))
            moved = floats(positions * channels + positions * filters / 2)
            made.append(Dispatch(f"{name} forward", (group,), moved))
        inputs = 49 * 64
    elif forms.head:
        made = []
    outputs = tiles.count(HIDDEN, n, HIDDEN)
    steps = tiles.steps_per_part(outputs, inputs)
    parts = ceil(inputs, steps)
    left, right = tiles.loads(HIDDEN, forms.loads_by_4 or not made)
    # To gather a value, the progress and the order are read first.
    loads = left + right if made else 3 * left + right
    name = "dense1 parts" if parts > 1 or forms.head else "dense1 forward"
    moved = floats(n * inputs + inputs * HIDDEN + parts * n * HIDDEN)
    made.append(Dispatch(name, (Group(outputs * parts, steps // STEPS, loads),), moved))
    if forms.head:
        return made, parts
    if parts > 1:
        made.append(Dispatch("dense1 sum", megabytes=floats((parts + 1) * n * HIDDEN), invocations=n * HIDDEN))
    group = Group(tiles.count(CLASSES, n, CLASSES), HIDDEN // STEPS, sum(tiles.loads(CLASSES, False)))
    return [*made, Dispatch("dense2 forward", (group,))], parts


def backward_dense(name: str, n: int, inputs: int, outputs: int, needs_dx: bool, tiles: Tiles, forms: Forms) -> Dispatch:
    """Both gradients of a dense layer in one dispatch."""
    width = min(inputs, outputs) if needs_dx else outputs
    loads = sum(tiles.loads(width, forms.loads_by_4 and outputs % 4 == 0))
    groups = [Group(tiles.count(width, inputs + 1, outputs), ceil(n, STEPS), loads)]
    if needs_dx:
        groups.append(Group(tiles.count(width, n, inputs), ceil(outputs, STEPS), loads))
    return Dispatch(name, tuple(groups), floats(2 * n * inputs + 2 * inputs * outputs + n * outputs))


def cells(name: str) -> int:
    """Cells of a filter, with the bias."""
    return 9 * CONVOLUTIONS[name][1] + 1


def backward_convolution(name: str, n: int, tiles: Tiles, forms: Forms) -> tuple[Dispatch, int]:
    """Gradients of a convolution from the pooled gradient, and the parts of the filter's."""
    size, channels, filters = CONVOLUTIONS[name]
    positions = n * size * size
    width = min(channels, filters) if name == "conv2" else filters
    outputs = tiles.count(width, cells(name), filters)
    steps = tiles.steps_per_part(outputs, positions)
    parts = ceil(positions, steps)
    left, right = tiles.loads(width, forms.loads_by_4 and channels % 4 == 0)
    # The gradient comes with the argmax.
    groups = [Group(outputs * parts, steps // STEPS, left + 2 * right)]
    if name == "conv2":
        groups.append(Group(tiles.count(width, positions, channels), 9 * filters // STEPS, 2 * left + right))
    if forms.small_filters and name == "conv1":
        windows = positions // 4
        steps = tiles.steps_per_part(1, windows)
        parts = ceil(windows, steps)
        # Eight windows at a time, 11 loads each and no barrier; the sums of 10 cells are added up behind 20 barriers.
        groups = [Group(parts, 1, steps / 8 * (2 + 9), 20)]
    moved = floats(positions * channels * 2 + positions * filters / 2 + cells(name) * filters * parts)
    return Dispatch(f"{name} backward", tuple(groups), moved), parts


def update(model: str, n: int, parts: dict[str, int]) -> Dispatch:
    """The optimizer that finishes the gradients: each invocation those of four parameters. Counted in groups of 256."""

    def group(values: int, loads: int) -> Group:
        return Group(ceil(values, 4 * LANES), 1, loads)

    groups = [group(cells(name) * CONVOLUTIONS[name][2], count) for name, count in parts.items()]
    # Two loads for each row: of one gradient of the classes, and of four of the hidden layer. 64 invocations take a quarter of a load's time.
    groups.append(Group(ceil((HIDDEN + 1) * CLASSES, 4 * 64), 1, 4 * 2 * n / 4))
    if model == "mlp":
        groups.append(group((PIXELS + 1) * HIDDEN, 2 * n))
    return Dispatch("adam", tuple(groups), floats(5 * PARAMETERS[model]))


def step(model: str, n: int, mode: str, tiles: Tiles, forms: Forms = TODAY) -> list[Dispatch]:
    """The dispatches of a step on `n` images."""
    training = mode == "train"
    made, parts = forward(model, n, tiles, forms if training else TODAY)
    if not training:
        return [*made, Dispatch("softmax", rows=n)]
    if forms.head:
        # A row per workgroup: parts, second layer's weights, the gradient back; a barrier after each of four stages.
        made.append(Dispatch("head", (Group(n, 4, (HIDDEN * parts / LANES + 10) / 4),)))
        if not forms.fused_update:
            made.append(Dispatch("head sums", (Group(ceil((HIDDEN + 1) * CLASSES, 16) + 1, 1, 2 * ceil(n, 16)),)))
    else:
        made.append(Dispatch("softmax", rows=n))
        made.append(backward_dense("dense2 backward", n, HIDDEN, CLASSES, True, tiles, forms))
    if model == "cnn" or not forms.fused_update:
        inputs = 49 * 64 if model == "cnn" else PIXELS
        made.append(backward_dense("dense1 backward", n, inputs, HIDDEN, model == "cnn", tiles, forms))
    filters = {}
    for name in ("conv2", "conv1") if model == "cnn" else ():
        dispatch, filters[name] = backward_convolution(name, n, tiles, forms)
        made.append(dispatch)
        if not forms.fused_update:
            numbers = cells(name) * CONVOLUTIONS[name][2]
            made.append(Dispatch(f"{name} sum", megabytes=floats(numbers * (filters[name] + 1)), invocations=numbers))
    if forms.fused_update:
        return [*made, update(model, n, filters)]
    numbers = PARAMETERS[model]
    return [*made, Dispatch("adam", megabytes=floats(4 * numbers), invocations=numbers // 4)]


def step_us(adapter: Adapter, dispatches: Iterable[Dispatch]) -> float:
    """Microseconds of dispatches that wait for each other."""
    return sum(adapter.launch + dispatch.us(adapter) for dispatch in dispatches)


def best_tiles(adapter: Adapter, model: str, n: int, forms: Forms = TODAY) -> Tiles:
    """The tiles with which training is fastest, as autotune would choose."""
    return min(CANDIDATES, key=lambda tiles: step_us(adapter, step(model, n, "train", tiles, forms)))


# ------------------------------------------------------------------------------------------------------- the record

# The kernel and the workgroups in the profile of each dispatch that is not alone in having its name.
PROFILED = {
    ("conv2d_forward_shared_pool", 196): "conv1 forward",
    ("conv2d_forward_shared_pool", 98): "conv2 forward",
    ("dense_forward_shared_parts", 56): "dense1 parts",
    ("dense_forward_sum", 64): "dense1 sum",
    ("dense_forward_shared", 1): "dense2 forward",
    ("softmax_xent_backward_x", 1): "softmax",
    ("dense_backward_x_and_w_shared", 6): "dense2 backward",
    ("dense_backward_x_and_w_shared", 149): "dense1 backward",
    ("conv2d_backward_x_and_w_shared", 115): "conv2 backward",
    ("conv2d_backward_w_sum", 289): "conv2 sum",
    ("conv2d_backward_w_shared", 63): "conv1 backward",
    ("conv2d_backward_w_sum", 5): "conv1 sum",
    ("batch_gather", 98): "gather",
    ("adam_step", 1648): "adam",
}
# What autotune had chosen in the recorded profile, as its workgroups show.
PROFILED_TILES = Tiles(4, 64)


@dataclass(frozen=True)
class Figure:
    """Something that was measured, and what the model says of it."""

    name: str
    measured: float
    dispatches: int
    predicted: float

    @property
    def error(self) -> float:
        """The prediction above (positive) or below the measured time, as a fraction of it."""
        return self.predicted / self.measured - 1.0


def recorded(name: str) -> Any:
    """A file of bench/results."""
    return json.loads((RESULTS / name).read_text())


def kernels(adapter: Adapter, profile: dict[str, Any]) -> list[Figure]:
    """Each kernel of the recorded profile; the timestamps around it are included."""
    counted = {dispatch.name: dispatch for dispatch in step("cnn", profile["batch_size"], "train", PROFILED_TILES)}
    made = []
    for row in profile["kernels"]:
        name = PROFILED[row["kernel"], row["workgroups"][0]]
        dispatch = counted[name]
        made.append(Figure(name, row["median_us"], dispatch.workgroups, adapter.timestamps + dispatch.us(adapter)))
    return made


def steps(adapter: Adapter, bench: dict[str, Any]) -> list[Figure]:
    """Each step of the recorded benchmark."""
    made = []
    for row in (row for model in PARAMETERS for row in bench[model]["results"]):
        model, n, mode = row["model"], row["batch_size"], row["mode"]
        tiles = PROFILED_TILES if (model, n) == ("cnn", 32) else best_tiles(adapter, model, n)
        dispatches = step(model, n, mode, tiles)
        predicted = step_us(adapter, dispatches)
        made.append(Figure(f"{model} {mode}, {n}", 1e3 * row["step_ms"], len(dispatches), predicted))
    return made


def fit(profile: dict[str, Any], bench: dict[str, Any], tries: int = 4000, begin: Adapter = H200) -> Adapter:
    """The constants with the smallest errors: changes at random that are kept if they are better."""

    def badness(adapter: Adapter) -> float:
        errors = [math.log1p(figure.error) for figure in kernels(adapter, profile) + steps(adapter, bench)]
        # Mostly the largest one, as the model is to hold for every kernel.
        return sum(error**8 for error in errors) ** 0.125 + 0.1 * math.sqrt(sum(e * e for e in errors) / len(errors))

    generator, best = random.Random(0), begin
    least = badness(best)
    for i in range(tries):
        names = generator.sample([field.name for field in fields(Adapter)], generator.choice((1, 1, 2, 3)))
        width = 0.3 * 0.5 ** (i / 800)
        changed = replace(best, **{name: getattr(best, name) * math.exp(generator.gauss(0.0, width)) for name in names})
        if (worse := badness(changed)) < least:
            best, least = changed, worse
    return best


# --------------------------------------------------------------------------------------------------------- the tables

# Forms that are added one after the other.
ADDED = {
    "standard": TODAY,
    "first filter's gradient in registers": Forms(True),
    "and four values per load": Forms(True, True),
    "and the head in two dispatches": Forms(True, True, True),
    "and the optimizer finishes gradients": Forms(True, True, True, True),
}
ADDED_FOR = [("mlp", 32), ("mlp", 256), ("cnn", 32), ("cnn", 256), ("cnn", 1024)]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def compared(figures: Iterable[Figure], counted: str) -> str:
    """Measured and predicted figures."""
    rows = [(f.name, f.dispatches, f"{f.measured:.1f}", f"{f.predicted:.1f}", f"{100 * f.error:+.0f} %") for f in figures]
    return table(["", counted, "measured, us", "predicted, us", "error"], rows)


def added(adapter: Adapter) -> str:
    """Steps with the candidates, in microseconds and images/s."""
    rows = []
    for name, forms in ADDED.items():
        cells = []
        for model, n in ADDED_FOR:
            dispatches = step(model, n, "train", best_tiles(adapter, model, n, forms), forms)
            us = step_us(adapter, dispatches)
            cells.append(f"{len(dispatches)}: {us:.0f} us, {1e6 * n / us:,.0f}/s")
        rows.append([name, *cells])
    return table(["dispatches: us per step, images/s", *(f"{model}, {n}" for model, n in ADDED_FOR)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit the constants to the recorded figures first, and print them")
    options = parser.parse_args(arguments)
    profile, bench = recorded("profile-nvidia-h200.json"), recorded("bench-nvidia-h200.json")
    adapter = H200
    if options.fit:
        adapter = fit(profile, bench)
        print(", ".join(f"{f.name} = {value:.4g}" for f, value in zip(fields(adapter), astuple(adapter))), end="\n\n")
    print(compared(kernels(adapter, profile), "workgroups"), end="\n\n")
    print(compared(steps(adapter, bench), "dispatches"), end="\n\n")
    print(added(adapter))


if __name__ == "__main__":
    main()
