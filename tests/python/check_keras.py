"""Checks an exported Keras npz file: the printed code builds a model and sets its weights, and its predictions agree. Also saves
the weights as safetensors under Keras's default names, for the test of `import`."""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
import numpy as np
from safetensors.numpy import save_file

from common import compare, main, require, run_lines


def check():
    model = run_lines()["model"]
    weights = np.load("model.keras.npz")
    for variable, name in zip(model.weights, weights.files, strict=True):
        require(variable.path.endswith(name), f"Keras has {variable.path} where the file has {name}")
    compare(lambda x: model.predict(x, batch_size=len(x), verbose=0))

    named, counts = {}, {}
    for layer in model.layers:
        if layer.weights:
            kind = type(layer).__name__.lower()
            number = counts[kind] = counts.get(kind, -1) + 1
            stem = f"{kind}_{number}" if number else kind
            for variable in layer.weights:
                named[f"{stem}/{variable.name}"] = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    save_file(named, "keras.safetensors")


main(check)
