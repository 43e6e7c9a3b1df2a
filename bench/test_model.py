"""Tests of model.py: `python3 -m unittest discover bench`."""

from __future__ import annotations

import sys
import unittest
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import model
from model import H200, TODAY, Forms, Tiles, step, step_us

PROFILE = model.recorded("profile-nvidia-h200.json")
BENCH = model.recorded("bench-nvidia-h200.json")


class Counts(unittest.TestCase):
    """What is counted from the shapes."""

    def test_the_dispatches_are_those_of_the_recorded_profile(self) -> None:
        counted = [(d.name, d.workgroups) for d in step("cnn", 32, "train", model.PROFILED_TILES)]
        self.assertEqual(sorted(counted), sorted((name, count) for (_, count), name in model.PROFILED.items()))
        self.assertEqual(len(PROFILE["kernels"]), len(counted))

    def test_each_step_has_the_recorded_number_of_dispatches(self) -> None:
        for name in model.PARAMETERS:
            for row in BENCH[name]["results"]:
                tiles = model.best_tiles(H200, name, row["batch_size"])
                dispatches = step(name, row["batch_size"], row["mode"], tiles)
                self.assertEqual(len(dispatches), row["dispatches_per_step"], row)

    def test_a_sum_is_split_as_the_program_splits_it(self) -> None:
        # 63 parts, as in the profile; a short sum is whole, and a long one has a limit.
        self.assertEqual(Tiles(4, 64).steps_per_part(1, 25_088), 400)
        self.assertEqual(Tiles(4, 128).steps_per_part(4, 256), 256)
        self.assertEqual(Tiles(4, 1).steps_per_part(1, 1 << 20), 32_768)


class Predictions(unittest.TestCase):
    """What the model says, beside what was measured."""

    def test_every_kernel_and_every_step_is_within_fifteen_percent(self) -> None:
        for figure in model.kernels(H200, PROFILE) + model.steps(H200, BENCH):
            self.assertLess(abs(figure.error), 0.15, figure)

    def test_the_constants_are_those_of_the_fit(self) -> None:
        def worst(adapter: model.Adapter) -> float:
            figures = model.kernels(adapter, PROFILE) + model.steps(adapter, BENCH)
            return max(abs(figure.error) for figure in figures)

        # No constant can be changed by a fifth without a figure that is farther off.
        for field in ("launch", "round", "load", "tile"):
            for factor in (0.8, 1.25):
                changed = replace(H200, **{field: getattr(H200, field) * factor})
                self.assertGreater(worst(changed), worst(H200), (field, factor))

    def test_a_form_changes_what_it_is_about_and_nothing_else(self) -> None:
        def names(network: str, forms: Forms) -> list[str]:
            return [dispatch.name for dispatch in step(network, 32, "train", Tiles(), forms)]

        standard = names("cnn", TODAY)
        self.assertEqual(names("cnn", Forms(small_filters=True)), standard)
        self.assertEqual(names("cnn", Forms(loads_by_4=True)), standard)
        convolutions = ["gather", "conv1 forward", "conv2 forward"]
        head = [*convolutions, "dense1 parts", "head", "head sums", "dense1 backward"]
        self.assertEqual(names("cnn", Forms(head=True)), [*head, *standard[-5:]])
        backward = ["dense1 backward", "conv2 backward", "conv1 backward", "adam"]
        both = Forms(head=True, fused_update=True)
        self.assertEqual(names("cnn", both), [*convolutions, "dense1 parts", "head", *backward])
        self.assertEqual(names("mlp", both), ["dense1 parts", "head", "adam"])
        faster = Forms(small_filters=True, loads_by_4=True, head=True)
        self.assertLess(step_us(H200, step("cnn", 32, "train", Tiles(), faster)), 0.8 * step_us(H200, step("cnn", 32, "train", Tiles())))

    def test_a_fit_finds_constants_that_are_as_good(self) -> None:
        begun = replace(H200, load=2 * H200.load, launch=H200.launch / 2)
        found = model.fit(PROFILE, BENCH, tries=400, begin=begun)
        worst = max(abs(figure.error) for figure in model.kernels(found, PROFILE) + model.steps(found, BENCH))
        self.assertLess(worst, 0.25)


if __name__ == "__main__":
    unittest.main()
