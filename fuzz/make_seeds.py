#!/usr/bin/env python3
"""Generates the seeds of every fuzz target in corpus/: small valid files, and a few that are almost valid.

Needs Pillow for the images (pip install pillow). The output is deterministic:  python3 make_seeds.py
"""

import gzip
import hashlib
import io
import json
import pathlib
import struct
import zipfile

from PIL import Image

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(tensors, metadata=None):
    """Serializes tensors given as (name, dtype, shape, bytes)."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, values in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def floats(count, first=0.0):
    return struct.pack(f"<{count}f", *((first + 0.01 * i) for i in range(count)))


# IDX files, plain and gzipped.
def idx(shape, payload, kind=8):
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", n) for n in shape) + payload


images = idx([2, 28, 28], bytes(i % 251 for i in range(2 * 784)))
labels = idx([3], bytes([0, 9, 5]))
write("idx", "images", images)
write("idx", "labels", labels)
write("idx", "labels.gz", gzip.compress(labels, mtime=0))
write("idx", "images.gz", gzip.compress(images, mtime=0))
write("idx", "two-members.gz", gzip.compress(labels[:5], mtime=0) + gzip.compress(labels[5:], mtime=0))
write("idx", "bomb.gz", gzip.compress(idx([60000, 28, 28], bytes(1 << 20)), mtime=0))
write("idx", "bomb-of-its-own-size.gz", gzip.compress(idx([1024, 32, 32], bytes(1 << 20)), mtime=0))
write("idx", "product-overflows", idx([0xFFFFFFFF] * 3, b"x"))
write("idx", "floats", idx([1], b"\0\0\0\0", kind=13))
write("idx", "cut", images[:100])

# Model files.
SMALL = """name = "small"
layer = [
    { type = "conv2d", filters = 2, kernel_size = [5, 3], stride = 7, activation = "relu" },
    { type = "maxpool2d", pool_size = 2 },
    { type = "flatten" },
    { type = "dense", units = 10, activation = "softmax" },
]
"""
write("model_file", "small.toml", SMALL)
write(
    "model_file",
    "every-layer.toml",
    """name = "every"
[[layer]]
type = "conv2d"
filters = 3
kernel_size = 3
stride = [2, 3]
padding = "same"
[[layer]]
type = "relu"
[[layer]]
type = "averagepool2d"
pool_size = [2, 1]
stride = 1
padding = "same"
[[layer]]
type = "sumpool2d"
pool_size = 2
[[layer]]
type = "maxpool2d"
pool_size = [3, 2]
stride = [1, 2]
padding = "same"
[[layer]]
type = "flatten"
[[layer]]
type = "dense"
units = 4
activation = "relu"
[[layer]]
type = "dense"
units = 10
""",
)
write(
    "model_file",
    "parameters.toml",
    """name = "parameters"
layer = [
    { type = "conv2d", filters = 4, kernel_size = [4, 2], stride = 7, init = "whitening", trainable = "bias" },
    { type = "conv2d", filters = 6, kernel_size = [1, 3], use_bias = false, init = "dirac" },
    { type = "batchnorm", trainable = false },
    { type = "flatten" },
    { type = "dense", units = 3, init = "he_normal", trainable = false },
    { type = "dense", units = 10, use_bias = false, init = "glorot_uniform", trainable = true },
]
""",
)
write(
    "model_file",
    "graph.toml",
    """name = "graph"
layer = [
    { type = "conv2d", name = "stem", filters = 2, kernel_size = 4, stride = 4 },
    { type = "batchnorm", scale = false, momentum = 0.5 },
    { type = "gelu" },
    { type = "conv2d", filters = 2, kernel_size = 4, stride = 4, input = "input", activation = "gelu" },
    { type = "batchnorm", center = false, epsilon = 0.1 },
    { type = "add", name = "lambda", inputs = ["stem", "gelu_1", "batchnorm_2"] },
    { type = "flatten" },
    { type = "dense", name = "x", units = 98 },
    { type = "add", inputs = ["x", "flatten_1"] },
    { type = "dense", units = 10 },
]
""",
)
write(
    "model_file",
    "pooled.toml",
    """name = "pooled"
layer = [
    { type = "scale", factor = -2.5 },
    { type = "conv2d", filters = 4, kernel_size = 5, stride = 4, activation = "leakyrelu" },
    { type = "leakyrelu", name = "body", slope = 0.3 },
    { type = "silu" },
    { type = "globalmaxpool2d" },
    { type = "globalaveragepool2d", input = "body" },
    { type = "leakyrelu" },
    { type = "add", inputs = ["globalmaxpool2d_1", "leakyrelu_2"] },
    { type = "dense", units = 4, activation = "silu" },
    { type = "dense", units = 10 },
]
""",
)
DENSE = 'layer = [{ type = "flatten" }, { type = "dense", units = 10 }]\n'
write(
    "model_file",
    "recipe.toml",
    'name = "r"\n' + DENSE + '[train]\nlabel_smoothing = 0.1\nclass_weights = "balanced"\naverage = "ema"\naverage_decay = 0.99\n',
)
write(
    "model_file",
    "scheduled.toml",
    'name = "s"\n'
    + DENSE
    + """[train]
epochs = 3
batch_size = 8
optimizer = "sgd"
learning_rate = 0.3
momentum = 0.85
nesterov = true
weight_decay = 1e-2
bias_factor = 2
scale_factor = 0.5
shift_factor = 64
schedule = "onecycle"
warmup = 0.25
initial = 0.1
final = 0.0
clip_norm = 1.5
""",
)
write(
    "model_file",
    "adamw.toml",
    'name = "a"\n' + DENSE + '[train]\noptimizer = "adamw"\nweight_decay = 0.05\nschedule = "step"\nbatch_size = 64\n',
)
write(
    "model_file",
    "weighted.toml",
    'name = "w"\n' + DENSE + '[train]\nclass_weights = [1, 0.5, 0, 2, 1, 1, 1, 1, 1, 1e3]\naverage = "lookahead"\n',
)
write(
    "model_file",
    "grouped.toml",
    """name = "grouped"
layer = [
    { type = "conv2d", filters = 4, kernel_size = 4, stride = 4 },
    { type = "depthwiseconv2d", kernel_size = [3, 2], stride = [2, 1], padding = "same", use_bias = false },
    { type = "batchnorm" },
    { type = "conv2d", filters = 6, kernel_size = 2, groups = 2, activation = "relu" },
    { type = "depthwiseconv2d", kernel_size = 2, activation = "gelu" },
    { type = "flatten" },
    { type = "dense", units = 10 },
]
""",
)
write(
    "model_file",
    "augmented.toml",
    """name = "augmented"
layer = [
    { type = "dropout", rate = 0.1 },
    { type = "flatten" },
    { type = "dense", units = 4, activation = "relu" },
    { type = "dropout", rate = 0 },
    { type = "dense", units = 10 },
]
[train]
epochs = 2
[train.augment]
shift = 2
flip = "alternating"
cutout = 8
mixup = 0.2
cutmix = 1
[predict]
views = "flip+shift"
""",
)
write("model_file", "huge-dense.toml", 'name = "h"\nlayer = [{ type = "flatten" }, { type = "dense", units = 18446744073709551615 }]\n')
write("model_file", "other-input.toml", 'name = "i"\ninput = [4294967296, 4294967296, 2]\nlayer = [{ type = "flatten" }]\n')
write("model_file", "path.toml", 'name = "../x"\nlayer = [{ type = "flatten" }, { type = "dense", units = 10 }]\n')

# Weights, checkpoints, weights from other tools: one pooling to a single pixel and a dense layer, to keep them short.
TINY = {
    "name": "tiny",
    "input": [28, 28, 1],
    "layer": [
        {"type": "averagepool2d", "pool_size": [28, 28], "padding": "valid"},
        {"type": "flatten"},
        {"type": "dense", "units": 10, "activation": "softmax"},
    ],
}
PARAMETERS = [("dense_1.bias", [10], 10), ("dense_1.weight", [1, 10], 10)]


def named(prefix, first):
    return [(prefix + name, "F32", shape, floats(count, first)) for name, shape, count in PARAMETERS]


def halves(first):
    return [
        (name, "F16", shape, struct.pack(f"<{count}e", *((first + 0.01 * i) for i in range(count)))) for name, shape, count in PARAMETERS
    ]


def weights(model=TINY, version="fmnist-gpu 1", tensors=None):
    return safetensors(tensors or named("", -0.05), {"format": version, "layout": "row-major", "model": json.dumps(model)})


write("weights", "tiny.safetensors", weights())
write("weights", "half.safetensors", weights(tensors=halves(-0.05)))
write("weights", "half-infinite.safetensors", weights(tensors=halves(float("inf"))))
write("weights", "newer.safetensors", weights(version="fmnist-gpu 2"))
write("weights", "nan.safetensors", weights(tensors=named("", float("nan"))))
write("weights", "path.safetensors", weights(model={**TINY, "name": "../../etc/x"}))
write("weights", "tensor-with-a-path.safetensors", weights(tensors=named("../", 0.0)))
write("weights", "input-of-another-size.safetensors", weights(model={**TINY, "input": [1 << 40, 1 << 40, 1]}))

ADAM = {"name": "adam", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07}
SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}
CONFIG = {
    "version": "0.1.0",
    "model": TINY,
    "dataset": "synthetic",
    "data_source": "generated with seed 0",
    "train_images": 100,
    "validation_images": 20,
    "seed": 7,
    "epochs": 3,
    "batch_size": 32,
    "optimizer": ADAM,
    "device": "d",
    "driver": "v",
    "backend": "vulkan",
    "safe": False,
    "tiles": {"rows_each": 4, "workgroups": 128},
}
EPOCH = {"epoch": 1, "loss": 0.7, "accuracy": 0.75, "val_loss": 0.6, "val_accuracy": 0.8, "seconds": 1.25, "images_per_second": 80.0}
POSITION = {"history": [EPOCH], "done": {"loss": 20.5, "correct": 40, "samples": 64, "batches": 2}, "seconds": 0.25}


def checkpoint(config=CONFIG, position=POSITION, slots=("m.", "v.")):
    tensors = sorted(sum((named(slot, 0.1) for slot in slots), []) + named("parameters.", -0.05))
    config, position = json.dumps(config), json.dumps(position)
    digest = hashlib.sha256()
    for part in [config.encode(), position.encode()] + [p for t in tensors for p in (t[0].encode(), t[3])]:
        digest.update(struct.pack("<Q", len(part)) + part)
    metadata = {"format": "fmnist-gpu checkpoint 1", "config": config, "position": position, "sha256": digest.hexdigest()}
    return safetensors(tensors, metadata)


write("checkpoint", "adam.safetensors", checkpoint())
write("checkpoint", "sgd.safetensors", checkpoint({**CONFIG, "optimizer": SGD}, slots=("velocity.",)))
AVERAGED = {**CONFIG, "validation_split": 0.2, "recipe": {"average": "ema", "average_decay": 0.9, "patience": 3, "label_smoothing": 0.1}}
write("checkpoint", "averages.safetensors", checkpoint(AVERAGED, slots=("m.", "v.", "average.", "best.")))
write("checkpoint", "no-average.safetensors", checkpoint(AVERAGED, slots=("m.", "v.", "best.")))
write("checkpoint", "cut.safetensors", checkpoint()[:-7])
write("checkpoint", "no-batch.safetensors", checkpoint({**CONFIG, "batch_size": 0}))
write("checkpoint", "sums-overflow.safetensors", checkpoint({**CONFIG, "train_images": 2**64 - 1, "validation_images": 2**64 - 1}))
write("checkpoint", "past-the-end.safetensors", checkpoint(position={**POSITION, "done": {**POSITION["done"], "batches": 2**60}}))
write("checkpoint", "odd-tiles.safetensors", checkpoint({**CONFIG, "tiles": {"rows_each": 0, "workgroups": 0}}))

half = struct.pack("<10e", *([0.5] * 10))
write("import", "keras.safetensors", safetensors([("dense/bias", "F32", [10], floats(10)), ("dense/kernel", "F32", [8, 10], floats(80))]))
write(
    "import",
    "torch.safetensors",
    safetensors(
        [
            ("conv.bias", "F32", [2], floats(2)),
            ("conv.weight", "F32", [2, 1, 5, 3], floats(30)),
            ("fc.bias", "F16", [10], half),
            ("fc.weight", "F64", [10, 8], struct.pack("<40d", *([0.25] * 40)) * 2),
        ]
    ),
)
write(
    "import",
    "our-names.safetensors",
    safetensors(
        [
            ("conv2d_1.bias", "BF16", [2], b"\0\x3f" * 2),
            ("conv2d_1.weight", "F32", [5, 3, 1, 2], floats(30)),
            ("dense_1.bias", "F32", [10], floats(10)),
            ("dense_1.weight", "F32", [8, 10], floats(80)),
        ]
    ),
)
write("import", "own.safetensors", weights())
NORMALIZED = {**TINY, "layer": [*TINY["layer"][:2], {"type": "batchnorm", "center": False}, *TINY["layer"][2:]]}
write(
    "import",
    "normalized.safetensors",
    safetensors(
        [
            ("bn.bias", "F32", [1], struct.pack("<f", 0)),
            ("bn.num_batches_tracked", "I64", [], struct.pack("<q", 7)),
            ("bn.running_mean", "F32", [1], floats(1)),
            ("bn.running_var", "F32", [1], floats(1, 0.5)),
            ("bn.weight", "F32", [1], floats(1)),
            ("fc.bias", "F32", [10], floats(10)),
            ("fc.weight", "F32", [10, 1], floats(10)),
        ],
        {"fmnist_gpu_model": json.dumps(NORMALIZED)},
    ),
)
in_torch_layout = [("dense_1.bias", "F32", [10], floats(10)), ("dense_1.weight", "F32", [10, 1], floats(10))]
write("import", "described.safetensors", safetensors(in_torch_layout, {"fmnist_gpu_model": json.dumps(TINY)}))

# Files of a run folder; the first byte selects the kind.
write("run_folder", "config", "c" + json.dumps(CONFIG))
SUMMARY = {
    "model": "mlp",
    "dataset": "fashion-mnist",
    "device": "d",
    "driver": "v",
    "seed": 1,
    "epochs": 2,
    "epochs_completed": 2,
    "status": "complete",
    "batch_size": 32,
    "parameters": 101770,
    "test_loss": 0.35,
    "test_accuracy": 0.87,
    "train_seconds": 19.5,
    "images_per_second": 15000.5,
    "version": "0.1.0",
}
write("run_folder", "summary", "s" + json.dumps(SUMMARY))
write("run_folder", "summary-html", "s" + json.dumps({**SUMMARY, "model": "<script>alert(1)</script>", "device": "\u001b[2J"}))
write("run_folder", "history", "h" + "\n".join(json.dumps({**EPOCH, "epoch": n, "loss": 1 / n}) for n in range(1, 6)) + "\n")
write("run_folder", "history-huge", "h" + json.dumps({**EPOCH, "epoch": 2**64 - 1, "loss": 1e308, "val_loss": -1e308}))
SHARES = [0.1] * 10
CLASSES = [{"class": str(n), "precision": 0.8, "recall": 0.9, "f1": 0.85, "support": 1} for n in range(10)]
METRICS = {
    "images": 10,
    "accuracy": 0.9,
    "accuracy_95": [0.8, 0.95],
    "loss": 0.4,
    "confusion": [[1 if a == b else 0 for b in range(10)] for a in range(10)],
    "classes": CLASSES,
    "macro_f1": 0.85,
    "ece": 0.01,
    "bins": [{"above": 0.0, "to": 0.5, "images": 4, "confidence": 0.4, "accuracy": 0.5}],
    "right": "1101111111",
    "mistakes": [{"index": 2, "label": 2, "predicted": 4, "probabilities": SHARES}],
}
write("run_folder", "metrics", "m" + json.dumps(METRICS))
write("run_folder", "metrics-of-no-class", "m" + json.dumps({**METRICS, "classes": []}))


# Images.
def make_image(mode, size, **options):
    image = Image.new(mode, size)
    pixels = image.load()
    for y in range(size[1]):
        for x in range(size[0]):
            inside = size[0] // 4 <= x < 3 * size[0] // 4 and size[1] // 4 <= y < 3 * size[1] // 4
            value = 30 + x % 20 if inside else 240
            pixels[x, y] = value if mode in ("L", "P") else (1 - inside if mode == "1" else (value, value, 200, 255)[: len(mode)])
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


exif = Image.Exif()
exif[0x0112] = 6
write("photo", "grey-28.png", make_image("L", (28, 28), format="PNG"))
write("photo", "rgba.png", make_image("RGBA", (20, 30), format="PNG"))
write("photo", "palette.png", make_image("P", (17, 9), format="PNG"))
write("photo", "exif.png", make_image("RGB", (12, 20), format="PNG", exif=exif))
write("photo", "exif.jpg", make_image("RGB", (24, 16), format="JPEG", quality=60, exif=exif))
write("photo", "progressive.jpg", make_image("L", (33, 17), format="JPEG", quality=50, progressive=True))
write("photo", "lossy.webp", make_image("RGB", (24, 16), format="WEBP", quality=40, exif=exif))
write("photo", "lossless.webp", make_image("RGBA", (16, 16), format="WEBP", lossless=True))
write("photo", "rgb.bmp", make_image("RGB", (9, 7), format="BMP"))
write("photo", "one-bit.bmp", make_image("1", (33, 8), format="BMP"))
# A header that claims more pixels than the file contains.
bmp = bytearray(make_image("RGB", (9, 7), format="BMP"))
bmp[18:26] = struct.pack("<ii", 32768, 32768)
write("photo", "huge.bmp", bytes(bmp))

write("filter", "edge", "# the edges\n-1 -1 -1\n-1 8 -1\n-1 -1 -1\n")
write("filter", "line", "0.5, 0.25; 1e-3\n")
write("filter", "ragged", "1 2\n3\n")
write("filter", "no-numbers", "# nothing\n\n")
write("filter", "not-finite", "1 inf nan\n")


# Files that the program writes for its own use.
def pipelines(version=b"1", adapter=b"adapter", data=b"some bytes of a driver"):
    parts = b"".join(struct.pack("<Q", len(text)) + text for text in (version, adapter))
    return b"FMGPUPC1" + parts + struct.pack("<Q", len(data)) + hashlib.sha256(data).digest() + data


write("caches", "pipelines", pipelines())
write("caches", "pipelines-of-another", pipelines(adapter=b"other"))
write("caches", "pipelines-cut", pipelines()[:-3])
write("caches", "tiles", json.dumps({"choices": [{"key": "k", "tiles": {"rows_each": 8, "workgroups": 64}}]}))
write("caches", "odd-tiles", json.dumps({"choices": [{"key": "k", "tiles": {"rows_each": 3, "workgroups": 0}}]}))


def zipped(files, compression=zipfile.ZIP_STORED):
    """A zip archive of files by their names, always the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.writestr(info, data)
    return packed.getvalue()


WEIGHTS = (CORPUS / "weights" / "tiny.safetensors").read_bytes()
RUN = {"run/model.safetensors": WEIGHTS, "run/history.jsonl": json.dumps(EPOCH), "run/summary.json": json.dumps(SUMMARY)}
write("archive", "run.zip", zipped(RUN))
write("archive", "deflated.zip", zipped(RUN, zipfile.ZIP_DEFLATED))
write("archive", "checkpoint.zip", zipped({**RUN, "run/checkpoints/step-000000000002.safetensors": (CORPUS / "checkpoint" / "adam.safetensors").read_bytes()}))
write("archive", "weights-alone.zip", zipped({"any.safetensors": WEIGHTS}))
write("archive", "outside.zip", zipped({"../../model.safetensors": WEIGHTS, "/etc/config.json": "{}"}))
write("archive", "empty.zip", zipped({}))
