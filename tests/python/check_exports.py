"""Opens exported models by the tools that they are for, with the very lines that `fmnist-gpu export` shows.

python check_exports.py FOLDER

FOLDER/images.bin: uint8 [n, 28, 28]. In each sub-folder: probabilities.bin, float32 [n, 10], and onnx.py, torch.py, keras.py.
Exits with 77 where a package is missing.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

try:
    import keras  # noqa: F401
    import numpy as np
    import onnx
    import onnxruntime  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch
except ImportError as error:
    print(f"a package is missing: {error}; sh tests/python/setup.sh DIR brings them", file=sys.stderr)
    sys.exit(77)

WITHIN = 1e-5


def agree(tool: str, case: str, found, expected) -> None:
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == expected.shape, f"{tool}, {case}: shape {found.shape}, expected {expected.shape}"
    worst = float(np.abs(found - expected).max())
    assert worst <= WITHIN, f"{tool}, {case}: {worst} above {WITHIN}"  # NaN fails too
    print(f"{tool}, {case}: {len(expected)} images agree within {worst:.1e}")


def shown(path: Path) -> dict:
    """What the shown lines leave behind."""
    names: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names


def main(folder: Path) -> None:
    images = np.fromfile(folder / "images.bin", np.uint8).reshape(-1, 28, 28)
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        expected = np.fromfile(case / "probabilities.bin", np.float32).reshape(-1, 10)
        pixels = images[..., None].astype(np.float32)

        onnx.checker.check_model(str(case / "model.onnx"), full_check=True)
        session = shown(case / "onnx.py")["session"]
        (entry,) = session.get_inputs()
        assert (entry.name, entry.shape) == ("pixels", ["batch", 28, 28, 1]), (entry.name, entry.shape)
        metadata = session.get_modelmeta().custom_metadata_map
        assert metadata["class_names"].startswith('["T-shirt/top"'), metadata
        agree("onnxruntime", case.name, session.run(["probabilities"], {"pixels": pixels})[0], expected)
        for n in (1, 7):
            agree("onnxruntime", f"{case.name}, batch {n}", session.run(None, {"pixels": pixels[:n]})[0], expected[:n])

        net = shown(case / "torch.py")["net"]
        # Without NumPy in between, as an older PyTorch does not know a newer NumPy.
        batch = torch.frombuffer(bytearray(images.tobytes()), dtype=torch.uint8).reshape(-1, 1, 28, 28).float()
        with torch.no_grad():
            agree("torch", case.name, torch.softmax(net(batch), 1).tolist(), expected)

        model = shown(case / "keras.py")["model"]
        agree("keras", case.name, model.predict(pixels, batch_size=250, verbose=0), expected)

        arrays = shown(case / "npz.py")["parameters"]
        assert sum(array.size for array in arrays.values()) == sum(w.numel() for w in net.state_dict().values())


main(Path(sys.argv[1]))
