"""Tests of compare.py: `python3 -m unittest discover bench`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compare
from compare import OURS, Results, System, Task

ABOUT = {
    "device": "llvmpipe (LLVM 1.2, 256 bits)",
    "driver": "Mesa",
    "ours_version": "0.1.0",
    "cpu": "A CPU",
    "cores": 2,
    "os": "Linux",
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc",
    "commit_modified": False,
}
TASK = Task("cnn", "train", 32)


def results(**rates: list[float]) -> Results:
    """Results of systems with the given images/s."""
    systems = [System(name, [], kind=name) for name in rates]
    made = Results(ABOUT, {"seconds": 1.0}, systems)
    for name, values in rates.items():
        made.system(name)["results"][TASK.key] = {
            "images_per_second": compare.spread(values),
            "peak_memory_mb": compare.spread([100.0]),
        }
    return made


def fake(code: str, name: str = "fake") -> System:
    """A peer that is one line of Python; it ignores its arguments."""
    return System(name, [sys.executable, "-c", code], kind="fake", variant="v")


def measure(systems: list[System], *words: str) -> tuple[Results, str]:
    """Run the rounds of these systems; returns the results and the Markdown file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        options = compare.parse_args(["--out", folder, "--models", "cnn", "--batch-sizes", "32", "--no-job", *words])
        made = Results(ABOUT, {"seconds": options.seconds}, systems)
        compare.measure_all(made, systems, [TASK], options, "device")
        saved = json.loads((Path(folder) / "device.json").read_text())
        assert saved == made.data
        assert not list(Path(folder).glob("*.part"))
        return made, (Path(folder) / "device.md").read_text()


class Figures(unittest.TestCase):
    def test_spread_is_median_and_extremes(self) -> None:
        self.assertEqual(compare.spread([3.0, 1.0, 8.0]), {"rounds": [3.0, 1.0, 8.0], "median": 3.0, "min": 1.0, "max": 8.0})

    def test_ratios_are_ours_over_the_peer(self) -> None:
        slow, fast = compare.spread([10.0]), compare.spread([40.0])
        self.assertEqual(compare.times_ours(slow, fast, more_is_better=True), 0.25)
        self.assertEqual(compare.times_ours(slow, fast, more_is_better=False), 4.0)

    def test_overlap(self) -> None:
        self.assertTrue(compare.overlap(compare.spread([1.0, 3.0]), compare.spread([2.0, 9.0])))
        self.assertFalse(compare.overlap(compare.spread([1.0, 3.0]), compare.spread([4.0, 9.0])))

    def test_slug(self) -> None:
        self.assertEqual(compare.slug("llvmpipe (LLVM 15.0.6, 256 bits)", 2), "llvmpipe-2-cores")
        self.assertEqual(compare.slug("NVIDIA H200", 16), "nvidia-h200")
        self.assertEqual(compare.slug("AMD Radeon(TM) 780M Graphics (RADV)", 16), "amd-radeon-780m-graphics")
        self.assertEqual(compare.slug("???", None), "device")

    def test_last_json_finds_a_line_among_others(self) -> None:
        self.assertEqual(compare.last_json('a warning\n{"a": 1}\n'), {"a": 1})
        self.assertEqual(compare.last_json('{\n  "a": 1\n}\n'), {"a": 1})
        with self.assertRaises(ValueError):
            compare.last_json("3\n")


class Markdown(unittest.TestCase):
    def test_table_and_ratio(self) -> None:
        text = compare.markdown(results(ours=[100.0, 90.0, 120.0], peer=[400.0]), [TASK])
        self.assertIn("| `ours` | 100 (90.0 to 120) |", text)
        self.assertIn("| `peer` | 0.25 |", text)
        self.assertIn("`peer` is faster than ours in cnn: training at batch 32 (4.00 times as fast).", text)

    def test_reports_overlapping_rounds_and_that_no_peer_is_faster(self) -> None:
        self.assertIn("overlap", compare.where_peers_lead(results(ours=[100.0, 130.0, 90.0], peer=[110.0]), [TASK]))
        self.assertIn("No peer is faster", compare.where_peers_lead(results(ours=[100.0], peer=[50.0]), [TASK]))


class Rounds(unittest.TestCase):
    def test_a_peer_that_fails_is_reported_and_the_others_continue(self) -> None:
        good = fake("""print('{"images_per_second": 50, "version": "Good 1", "device": "cpu"}')""", "good")
        bad = fake("import sys; sys.exit('no such GPU')", "bad")
        silent = fake("print('done')", "silent")
        made, text = measure([bad, good, silent], "--rounds", "3")
        self.assertEqual(made.figure("good", TASK, "images_per_second"), compare.spread([50.0] * 3))
        self.assertEqual(made.system("good")["version"], "Good 1")
        self.assertGreater(made.system("good")["results"][TASK.key]["peak_memory_mb"]["min"], 1)
        self.assertEqual(len(made.system("bad")["failures"]), 1, "it is not retried")
        self.assertIn("no such GPU", made.system("bad")["failures"][0]["reason"])
        self.assertIn("no JSON", made.system("silent")["failures"][0]["reason"])
        self.assertIn("no such GPU", text)
        self.assertIn("| `bad` | - |", text)

    def test_a_run_over_its_time_limit_is_killed_with_its_children(self) -> None:
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
        made, _ = measure([fake(code)], "--rounds", "1", "--timeout", "0.5")
        self.assertIn("stopped after", made.system("fake")["failures"][0]["reason"])

    def test_a_job_that_would_take_too_long_is_skipped(self) -> None:
        made = results(ours=[1.0])
        self.assertEqual(made.job_estimate(OURS, "cnn"), 300_000)
        self.assertEqual(made.job_estimate(OURS, "mlp"), 0)


if __name__ == "__main__":
    unittest.main()
