"""Checks an exported ONNX file: ONNX's checker passes, onnxruntime agrees, names and metadata are as documented."""

import json

import numpy as np
import onnx

from common import CLASS_NAMES, compare, images, main, require, run_lines


def check():
    model = onnx.load("model.onnx")
    onnx.checker.check_model(model, full_check=True)
    require([(o.domain, o.version) for o in model.opset_import] == [("", 17)], f"opset {model.opset_import}")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    require(json.loads(metadata["class_names"]) == CLASS_NAMES, f"class names {metadata['class_names']}")
    require(metadata["dataset"] == "synthetic", f"dataset {metadata['dataset']}")
    require(float(metadata["test_accuracy"]) == 0.875, f"accuracy {metadata['test_accuracy']}")

    session = run_lines()["session"]
    [entry] = session.get_inputs()
    require((entry.name, entry.type, entry.shape) == ("pixels", "tensor(float)", ["batch", 28, 28, 1]), f"input {entry}")
    outputs = [(output.name, output.shape) for output in session.get_outputs()]
    require(outputs == [("probabilities", ["batch", 10]), ("logits", ["batch", 10])], f"outputs {outputs}")
    require(json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == CLASS_NAMES, "onnxruntime's metadata")

    compare(lambda x: session.run(["probabilities"], {"pixels": x})[0])
    [logits] = session.run(["logits"], {"pixels": images()[:7]})
    require(np.isfinite(logits).all() and np.abs(logits.sum(axis=1) - 1).max() > 0.1, "the logits are probabilities")


main(check)
