"""Checks an exported npz file: NumPy opens it, and its arrays are the parameters in `parameters.bin` (float32, concatenated)."""

import numpy as np

from common import main, require, run_lines


def check():
    weights = run_lines()["weights"]
    arrays = [weights[name] for name in weights.files]
    require(all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays), "an array is not float32")
    flat = np.concatenate([array.ravel() for array in arrays])
    expected = np.fromfile("parameters.bin", np.float32)
    require(flat.tobytes() == expected.tobytes(), "the values differ")
    print(f"{len(arrays)} arrays hold the same {len(flat)} values")


main(check)
