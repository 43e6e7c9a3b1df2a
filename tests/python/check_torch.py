"""Checks an exported PyTorch file: the printed module loads it, and its predictions agree. Also saves the weights under PyTorch's
default names, in four types, for the test of `import`, and lists the names that a layer must not have."""

import json
import keyword
import pathlib
import re

import torch
from safetensors import safe_open
from safetensors.torch import save_file

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
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        renamed = {}
        for i, module in enumerate(net.children()):
            for role, tensor in module.state_dict().items():
                # PyTorch also saves how many batches a normalization has seen, as an integer.
                renamed[f"{3 * i}.{role}"] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        save_file(renamed, f"sequential.{str(dtype).removeprefix('torch.')}.safetensors")

    names = [*dir(torch.nn.Module()), *keyword.kwlist]
    reserved = [name for name in names if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)]
    pathlib.Path("reserved.txt").write_text("\n".join(reserved), encoding="utf-8")


main(check)
