"""Checks an exported PyTorch file: the printed module loads it, and its predictions agree. Also saves the weights under PyTorch's
default names, in four types, for the test of `import`."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common import CLASS_NAMES, compare, main, require, run_lines


def check():
    with safe_open("model.torch.safetensors", "pt") as file:
        metadata = file.metadata()
    require(json.loads(metadata["class_names"]) == CLASS_NAMES, f"class names {metadata['class_names']}")
    variables = run_lines()
    net = variables["net"]
    require(metadata["module"].strip() in open("lines.py", encoding="utf-8").read(), "the module in the metadata differs")

    with torch.no_grad():
        # Through lists, because an older PyTorch does not support a newer NumPy.
        compare(lambda x: net(torch.tensor(x.tolist()).permute(0, 3, 1, 2)).softmax(1).tolist())

    # Names like those of torch.nn.Sequential: numbers with gaps.
    layers = sorted({name.rsplit(".", 1)[0] for name in net.state_dict()}, key=list(dict(net.named_children())).index)
    state = load_file("model.torch.safetensors")
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        renamed = {
            f"{3 * i}.{role}": state[f"{layer}.{role}"].to(dtype) for i, layer in enumerate(layers) for role in ("weight", "bias")
        }
        save_file(renamed, f"sequential.{str(dtype).removeprefix('torch.')}.safetensors")


main(check)
