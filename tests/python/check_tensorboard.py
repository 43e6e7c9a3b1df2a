"""Checks the event files of a training run with TensorBoard's own reader.

Takes a run folder as its argument; the scalars must match history.jsonl.
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def require(condition, message):
    if not condition:
        print(message)
        sys.exit(1)


def opened(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def main(run):
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = opened(run / "tensorboard" / part)
        for tag in ("loss", "accuracy"):
            found = [(e.step, e.value) for e in events.Scalars(f"epoch_{tag}")]
            expected = [(r["epoch"], r[prefix + tag]) for r in history]
            require(len(found) == len(expected), f"{part}: {found}")
            for (step, value), (epoch, wanted) in zip(found, expected):
                require(step == epoch and abs(value - wanted) < 1e-6, f"{part}, {tag}: {value} at {step}, expected {wanted}")
    events = opened(run / "tensorboard" / "train")
    tags = events.Tags()
    require("dense_1/weight" in tags["histograms"] and "gradients/dense_2/bias" in tags["histograms"], f"{tags['histograms']}")
    for event in events.Histograms("dense_2/weight"):
        value = event.histogram_value
        require(value.num == 1280 and abs(sum(value.bucket) - value.num) < 1e-9, f"{value}")
        require(value.min < 0 < value.max and value.bucket_limit[-1] >= value.max, f"{value}")
    image = events.Images("predictions")[0]
    require(image.width > 900 and image.encoded_image_string[:4] == b"\x89PNG", f"{image.width} x {image.height}")
    print(f"TensorBoard reads {len(history)} epochs, {len(tags['histograms'])} histograms, {len(tags['images'])} image")


main(pathlib.Path(sys.argv[1]))
