"""PyTorch; the data is on the device and every batch is gathered by a permutation, without a DataLoader.

eager     channels_last and fused Adam
compiled  forward, loss and backward through torch.compile; with CUDA, the whole step including Adam as one CUDA graph
"""

from __future__ import annotations

import time

import common

args = common.parse_args(["eager", "compiled"])

import torch
import torch.nn.functional as F
from torch import nn

cuda = torch.cuda.is_available()
device = torch.device("cuda" if cuda else "cpu")
compiled = args.variant == "compiled"
torch.manual_seed(args.seed)
torch.backends.cuda.matmul.allow_tf32 = args.tf32
torch.backends.cudnn.allow_tf32 = args.tf32
torch.backends.cudnn.benchmark = True


def build_model() -> nn.Module:
    dense = [nn.Flatten(), nn.Linear(784 if args.model == "mlp" else 3136, 128), nn.ReLU(), nn.Linear(128, 10)]
    convolutions = [
        *[nn.Conv2d(1, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)],
    ]
    model = nn.Sequential(*(convolutions if args.model == "cnn" else []), *dense)
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model.to(device, memory_format=torch.channels_last)


x, y, x_test, y_test = (torch.from_numpy(part).to(device) for part in common.load(args))
x, x_test = x.unsqueeze(1), x_test.unsqueeze(1)
y, y_test = y.long(), y_test.long()
model = build_model()
common.check_parameters(args, sum(p.numel() for p in model.parameters()))
adam = torch.optim.Adam(
    model.parameters(),
    lr=common.LEARNING_RATE,
    betas=(common.BETA_1, common.BETA_2),
    eps=common.EPSILON,
    fused=True,
    capturable=cuda and compiled,  # its step counter is on the GPU
)


def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(images), labels)


def score_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the losses and number of correct answers."""
    logits = model(images)
    right = (logits.argmax(1) == labels).sum()
    return torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right.float()])


fast_loss_of = torch.compile(loss_of, dynamic=False) if compiled else loss_of
fast_score_of = torch.compile(score_of, dynamic=False) if compiled else score_of


def step(rows: torch.Tensor, loss_of=fast_loss_of) -> torch.Tensor:
    loss = loss_of(x[rows], y[rows])
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()
    return loss.detach()


class Graph:
    """`work(rows)`, captured once as a CUDA graph; the host replays it with a single call."""

    def __init__(self, work) -> None:
        self.rows = torch.zeros(args.batch_size, dtype=torch.long, device=device)
        # Captured work must not compile, choose algorithms or create state, so all of that happens first. The steps of
        # this warm-up are undone below.
        saved = [p.detach().clone() for p in model.parameters()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work(self.rows)
        torch.cuda.current_stream().wait_stream(stream)
        adam.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = work(self.rows)
        with torch.no_grad():
            for p, value in zip(model.parameters(), saved):
                p.copy_(value)
            for state in adam.state.values():
                for value in state.values():
                    value.zero_()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        self.rows.copy_(rows)
        self.graph.replay()
        return self.result


class Order:
    """Batches of row numbers; a new permutation every epoch, without the short batch at its end."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, dtype=torch.long, device=device)
        self.at = 0

    def next(self) -> torch.Tensor:
        if self.at + args.batch_size > len(self.rows):
            self.rows, self.at = torch.randperm(len(x), device=device), 0
        self.at += args.batch_size
        return self.rows[self.at - args.batch_size : self.at]


def wait() -> None:
    if cuda:
        torch.cuda.synchronize()


def job() -> dict[str, object]:
    full_step = Graph(step) if cuda and compiled else step
    epoch_seconds = []
    for _ in range(common.EPOCHS):
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(x), device=device).split(args.batch_size):
            full = len(rows) == args.batch_size
            # A short batch would be compiled for its own size, for only one step per epoch.
            total += (full_step(rows) if full else step(rows, loss_of)) * len(rows)
        total.item()  # waits for the device
        epoch_seconds.append(time.perf_counter() - start)
    with torch.inference_mode():
        n = common.EVALUATION_BATCH
        # Ten batches do not justify a compilation.
        right = sum(score_of(*part)[1].item() for part in zip(x_test.split(n), y_test.split(n)))
    return {"epoch_seconds": epoch_seconds, "test_accuracy": right / len(x_test)}


def train() -> dict[str, object]:
    full_step = Graph(step) if cuda and compiled else step
    order = Order()

    def run(n: int) -> None:
        for _ in range(n):
            full_step(order.next())
        wait()

    return common.measure(args, run)


@torch.inference_mode()
def inference() -> dict[str, object]:
    def score(rows: torch.Tensor) -> torch.Tensor:
        return fast_score_of(x[rows], y[rows])

    full_score = Graph(score) if cuda and compiled else score
    order = torch.arange(len(x), device=device)
    batches = order[: len(x) // args.batch_size * args.batch_size].split(args.batch_size)
    done = 0

    def run(n: int) -> None:
        nonlocal done
        total = torch.zeros(2, device=device)
        for i in range(done, done + n):
            total += full_score(batches[i % len(batches)])
        done += n
        wait()

    return common.measure(args, run)


figures = {"job": job, "train": train, "inference": inference}[args.mode]()
if cuda:
    figures["device_memory_mb"] = torch.cuda.max_memory_reserved() / 1e6
else:
    figures["threads"] = torch.get_num_threads()
common.report(args, "torch", f"PyTorch {torch.__version__}", torch.cuda.get_device_name() if cuda else "cpu", figures)
