"""Keras on TensorFlow.

fit    `model.fit` on arrays, as in the article
tuned  batches gathered in `tf.data` and prefetched, many steps per execution
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common

args = common.parse_args(["fit", "tuned"])

import keras
import numpy as np
import tensorflow as tf
from keras import layers

tf.config.experimental.enable_tensor_float_32_execution(args.tf32)
gpus = tf.config.list_physical_devices("GPU")
for gpu in gpus:  # otherwise TensorFlow allocates all GPU memory
    tf.config.experimental.set_memory_growth(gpu, True)
device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"


def glorot(i_layer: int) -> keras.Initializer:
    # `keras.utils.set_random_seed` would also fix the order of the images, to the same order in every epoch, which costs
    # about one percentage point of accuracy. So only the weights are seeded.
    return keras.initializers.GlorotUniform(seed=10 * args.seed + i_layer)


def build_model() -> keras.Model:
    dense = [
        layers.Flatten(),
        layers.Dense(128, activation="relu", kernel_initializer=glorot(2)),
        layers.Dense(10, activation="softmax", kernel_initializer=glorot(3)),
    ]
    if args.model == "mlp":
        return keras.Sequential([keras.Input((28, 28)), *dense])
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu", kernel_initializer=glorot(0)),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", activation="relu", kernel_initializer=glorot(1)),
            layers.MaxPooling2D(2),
            *dense,
        ]
    )


class Clock(keras.callbacks.Callback):
    """Times windows of batches inside `fit` and `evaluate`, so that the start-up of a call is not counted in every window.

    The first window is the first execution, which compiles; the second is the warm-up; the next ten are kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []
        self.windows = self.steps = 0
        self.since = self.until = 0.0

    @property
    def done(self) -> bool:
        return len(self.rates) >= 10

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.last_step = -1

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self.last_step = -1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # Called once per execution, which may be many steps; `batch` is the index of the last one.
        self.steps += batch - self.last_step
        self.last_step = batch
        if time.perf_counter() < self.until:
            return
        float(logs["loss"])  # waits for the device
        now = time.perf_counter()
        if self.windows >= 2:
            self.rates.append(self.steps * args.batch_size / (now - self.since))
        self.until = now + args.seconds / (5 if self.windows == 0 else 10)
        self.since, self.steps, self.windows = now, 0, self.windows + 1
        if self.done:
            self.model.stop_training = self.model.stop_evaluating = True

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.on_train_batch_end(batch, logs)


class EpochTimes(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def tuned_data(x: np.ndarray, y: np.ndarray, batch_size: int, shuffle: bool) -> tf.data.Dataset:
    """Batches gathered by a permutation of the whole set; cheaper than a shuffle buffer, which works image by image."""

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(tf.random.shuffle(order) if shuffle else order)

    with tf.device("CPU:0"):  # where `tf.data` runs, so that nothing is copied back from a GPU
        order, x, y = tf.range(len(x)), tf.constant(x), tf.constant(y)
        indices = tf.data.Dataset.range(1).flat_map(one_pass).batch(batch_size)
        batches = indices.map(lambda i: (tf.gather(x, i), tf.gather(y, i)), num_parallel_calls=tf.data.AUTOTUNE)
        steps = -(-len(x) // batch_size)
        return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


x, y, x_test, y_test = common.load(args)
if args.model == "cnn":
    x, x_test = x[..., None], x_test[..., None]
model = build_model()
common.check_parameters(args, model.count_params())
tuned = args.variant == "tuned"
model.compile(
    optimizer=keras.optimizers.Adam(common.LEARNING_RATE, common.BETA_1, common.BETA_2, common.EPSILON),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
    # On a CPU, XLA is slower than oneDNN for the convolutions and faster for the rest.
    jit_compile=(bool(gpus) or args.model == "mlp") if tuned else "auto",
    # The cost of a call matters only for small batches; a long execution of large batches would take longer than a chunk.
    steps_per_execution=max(1, min(64, 16_384 // args.batch_size)) if tuned else 1,
)

if args.mode == "job":
    times = EpochTimes()
    options = {"epochs": common.EPOCHS, "verbose": 0, "callbacks": [times]}
    if tuned:
        model.fit(tuned_data(x, y, args.batch_size, shuffle=True), shuffle=False, **options)
        _, accuracy = model.evaluate(tuned_data(x_test, y_test, common.EVALUATION_BATCH, shuffle=False), verbose=0)
    else:
        model.fit(x, y, batch_size=args.batch_size, **options)
        _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    figures = {"epoch_seconds": times.seconds, "test_accuracy": float(accuracy)}
else:
    whole = len(x) // args.batch_size * args.batch_size  # all batches have the same size here
    x, y = x[:whole], y[:whole]
    clock = Clock()
    if args.mode == "train":
        options = {"epochs": 1_000_000, "verbose": 0, "callbacks": [clock]}
        if tuned:
            model.fit(tuned_data(x, y, args.batch_size, shuffle=True), shuffle=False, **options)
        else:
            model.fit(x, y, batch_size=args.batch_size, **options)
    else:
        data = tuned_data(x, y, args.batch_size, shuffle=False) if tuned else None
        while not clock.done:
            if tuned:
                model.evaluate(data, verbose=0, callbacks=[clock])
            else:
                model.evaluate(x, y, batch_size=args.batch_size, verbose=0, callbacks=[clock])
    figures = common.speeds(clock.rates)
if gpus:
    figures["device_memory_mb"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
common.report(args, "keras", f"Keras {keras.__version__}, TensorFlow {tf.__version__}", device, figures)
