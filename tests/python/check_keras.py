"""Checks an exported Keras npz file: the printed code builds a model and sets its weights, and its predictions agree. Also saves
the weights as safetensors under Keras's default names, for the test of `import`."""

import os
import re

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
import numpy as np
from safetensors.numpy import save_file

from common import compare, images, main, require, run_lines


def check():
    variables = run_lines()
    model = variables["model"]
    weights = np.load("model.keras.npz")
    # The layers in the order of the file, which in a graph is not that of Keras.
    layers = [model.get_layer(name) for name in dict.fromkeys(name.split("/")[0] for name in weights.files)]
    found = [variable for layer in layers for variable in layer.weights]
    for variable, name in zip(found, weights.files, strict=True):
        require(variable.path.endswith(name), f"Keras has {variable.path} where the file has {name}")
    require(len(found) == len(model.weights), f"Keras has {len(model.weights)} weights, the file {len(found)}")
    compare(lambda x: model.predict(x, batch_size=len(x), verbose=0))
    if "gelu_tanh" in variables:
        # Saved by name: Keras must not take its own GELU, which is another function.
        model.save("saved.keras")
        saved = keras.saving.load_model("saved.keras")
        x = images()[:100]
        require(np.array_equal(saved.predict(x, verbose=0), model.predict(x, verbose=0)), "the saved model differs")

    named, counts = {}, {}
    for layer in layers:
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        number = counts[kind] = counts.get(kind, -1) + 1
        stem = f"{kind}_{number}" if number else kind
        for variable in layer.weights:
            named[f"{stem}/{variable.name}"] = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    save_file(named, "keras.safetensors")


main(check)
