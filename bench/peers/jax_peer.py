"""Plain JAX with a hand-written Adam; the data is on the device.

scan  many steps as one compiled `lax.scan`, in a job a whole epoch
step  one compiled step per call
"""

from __future__ import annotations

import os
import time
from functools import partial

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # otherwise JAX allocates three quarters of the GPU memory

import common

args = common.parse_args(["scan", "step"])

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

jax.config.update("jax_default_matmul_precision", "tensorfloat32" if args.tf32 else "highest")
device = jax.devices()[0]
key = jax.random.key(args.seed)

FILTERS = [(3, 3, 1, 32), (3, 3, 32, 64)]  # HWIO
SHAPES = [*FILTERS, (3136, 128), (128, 10)] if args.model == "cnn" else [(784, 128), (128, 10)]
Weights = list[tuple[jax.Array, jax.Array]]


def initial_state() -> tuple[Weights, Weights, Weights, jax.Array]:
    """Weights, Adam's two moments, number of completed steps."""
    glorot = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(SHAPES))
    weights = [(glorot(k, shape), jnp.zeros(shape[-1])) for k, shape in zip(keys, SHAPES)]
    zeros = partial(jax.tree.map, jnp.zeros_like)
    return weights, zeros(weights), zeros(weights), jnp.zeros((), jnp.int32)


def forward(weights: Weights, h: jax.Array) -> jax.Array:
    """Logits of a batch of images `[N, 28, 28]`."""
    *hidden, (w_last, b_last) = weights
    if args.model == "cnn":
        h = h[..., None]
        for w, b in hidden[:2]:
            h = lax.conv_general_dilated(h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = lax.reduce_window(jax.nn.relu(h + b), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        hidden = hidden[2:]
    h = h.reshape(len(h), -1)
    for w, b in hidden:
        h = jax.nn.relu(h @ w + b)
    return h @ w_last + b_last


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def update(state, images: jax.Array, labels: jax.Array):
    weights, m, v, t = state
    loss, gradients = jax.value_and_grad(lambda w: losses(forward(w, images), labels).mean())(weights)
    b1, b2, t = common.BETA_1, common.BETA_2, t + 1
    rate = common.LEARNING_RATE * jnp.sqrt(1 - b2**t) / (1 - b1**t)
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, gradients)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, gradients)
    weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + common.EPSILON), weights, m, v)
    return (weights, m, v, t), loss


@partial(jax.jit, donate_argnums=0)
def train_step(state, x: jax.Array, y: jax.Array, rows: jax.Array):
    """Trains on one batch; also returns the sum of its losses."""
    state, loss = update(state, x[rows], y[rows])
    return state, loss * len(rows)


@partial(jax.jit, donate_argnums=0)
def train_scan(state, x: jax.Array, y: jax.Array, rows: jax.Array):
    """Trains on many batches; `rows` is `[steps, batch]`."""
    state, totals = lax.scan(lambda s, r: update(s, x[r], y[r]), state, rows)
    return state, totals.sum() * rows.shape[1]


@partial(jax.jit, static_argnames="n")
def score(weights: Weights, x: jax.Array, y: jax.Array, start: jax.Array | int, n: int) -> jax.Array:
    """Sum of the losses and number of correct answers for the `n` images from `start`."""
    images, labels = lax.dynamic_slice_in_dim(x, start, n), lax.dynamic_slice_in_dim(y, start, n)
    logits = forward(weights, images)
    return jnp.stack([losses(logits, labels).sum(), (logits.argmax(1) == labels).sum()])


@partial(jax.jit, static_argnames="n")
def score_scan(weights: Weights, x: jax.Array, y: jax.Array, starts: jax.Array, n: int) -> jax.Array:
    """The same for many batches."""
    return lax.scan(lambda total, start: (total + score(weights, x, y, start, n), None), jnp.zeros(2), starts)[0]


x, y, x_test, y_test = (jax.device_put(part, device) for part in common.load(args))
state = initial_state()
common.check_parameters(args, sum(p.size for p in jax.tree.leaves(state[0])))
n_images, batch = len(x), args.batch_size
n_steps = n_images // batch  # full batches per epoch
scan = args.variant == "scan"


def order(i_epoch: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, i_epoch), n_images)


def job() -> dict[str, object]:
    global state
    epoch_seconds = []
    for i_epoch in range(common.EPOCHS):
        start = time.perf_counter()
        rows, total = order(i_epoch), jnp.zeros(())
        whole = rows[: n_steps * batch].reshape(n_steps, batch)
        if scan:
            state, total = train_scan(state, x, y, whole)
        else:
            for r in np.asarray(whole):
                state, loss = train_step(state, x, y, r)
                total += loss
        if n_steps * batch < n_images:  # the short last batch
            state, loss = train_step(state, x, y, rows[n_steps * batch :])
            total += loss
        float(total)  # waits for the device
        epoch_seconds.append(time.perf_counter() - start)
    n = common.EVALUATION_BATCH
    right = sum(float(score(state[0], x_test, y_test, i, n)[1]) for i in range(0, len(x_test), n))
    return {"epoch_seconds": epoch_seconds, "test_accuracy": right / len(x_test)}


# Steps per scan while measuring: an epoch on a GPU; fewer on a CPU, where convolutions inside a loop are slow, so that
# a chunk stays short.
ON_CPU = {"cnn": 512, "mlp": 8192}[args.model]
QUANTUM = (max(1, ON_CPU // batch) if device.platform == "cpu" else n_steps) if scan else 1


def train() -> dict[str, object]:
    i_epoch, at = 0, n_steps
    rows: np.ndarray | jax.Array | None = None

    def run(n: int) -> None:
        nonlocal i_epoch, at, rows
        global state
        for _ in range(n // QUANTUM):
            if at + QUANTUM > n_steps:
                rows = order(i_epoch)[: n_steps * batch].reshape(n_steps, batch)
                rows = rows if scan else np.asarray(rows)
                i_epoch, at = i_epoch + 1, 0
            if scan:
                state, _ = train_scan(state, x, y, rows[at : at + QUANTUM])
            else:
                state, _ = train_step(state, x, y, rows[at])
            at += QUANTUM
        jax.block_until_ready(state)

    return common.measure(args, run, QUANTUM)


def inference() -> dict[str, object]:
    weights = state[0]
    starts = np.arange(n_steps, dtype=np.int32) * batch
    at = 0

    def run(n: int) -> None:
        nonlocal at
        total = jnp.zeros(2)
        for _ in range(n // QUANTUM):
            at = 0 if at + QUANTUM > n_steps else at
            if scan:
                total += score_scan(weights, x, y, starts[at : at + QUANTUM], batch)
            else:
                total += score(weights, x, y, starts[at], batch)
            at += QUANTUM
        jax.block_until_ready(total)

    return common.measure(args, run, QUANTUM)


figures = {"job": job, "train": train, "inference": inference}[args.mode]()
statistics = device.memory_stats() if device.platform != "cpu" else None
if statistics:
    figures["device_memory_mb"] = statistics["peak_bytes_in_use"] / 1e6
common.report(args, "jax", f"JAX {jax.__version__}", "cpu" if device.platform == "cpu" else device.device_kind, figures)
