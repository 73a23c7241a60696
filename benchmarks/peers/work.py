"""The work of the race, in plain torch: network, data, local training and accuracy, as every peer uses them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = os.environ.get("PEERS", ".")
LR, MOMENTUM, DECAY, EPOCHS, BATCH = 0.01, 0.9, 1e-3, 2, 32


class Net(nn.Module):
    """The network of pffdst.models.lenet, 781,770 weights, written plainly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(3, stride=1)
        self.fc1 = nn.Linear(6400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


class Work:
    """Images, shares and cohorts. With TINY set: 4,000 clients of 8 samples, 100 a round."""

    def __init__(self) -> None:
        d = np.load(f"{HERE}/work.npz")
        self.x, self.y = torch.from_numpy(d["images"]), torch.from_numpy(d["labels"]).long()
        self.tx, self.ty = torch.from_numpy(d["timages"]), torch.from_numpy(d["tlabels"]).long()
        self.mean = torch.tensor(d["mean"], dtype=torch.float32).view(1, -1, 1, 1)
        self.std = torch.tensor(d["std"], dtype=torch.float32).view(1, -1, 1, 1)
        self.idx = [torch.from_numpy(i).long() for i in np.split(d["idx"], np.cumsum(d["lens"])[:-1])]
        self.cohorts = d["cohorts"]
        if os.environ.get("TINY"):
            g = np.random.default_rng(0)
            self.idx = [torch.from_numpy(g.integers(0, len(self.y), 8)) for _ in range(4000)]
            self.cohorts = np.stack([g.choice(4000, 100, replace=False) for _ in range(200)])

    def norm(self, x: Tensor) -> Tensor:
        return (x.float() / 255 - self.mean) / self.std

    def client(self, k: int) -> tuple[Tensor, Tensor]:
        return self.x[self.idx[k]], self.y[self.idx[k]]


def train(net: nn.Module, work: Work, k: int) -> int:
    """A client's local training; the number of its samples."""
    x, y = work.client(k)
    opt: Any = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    net.train()
    for _ in range(EPOCHS):
        for b in torch.randperm(len(y)).split(BATCH):  # type: ignore[no-untyped-call]
            opt.zero_grad()
            loss = F.cross_entropy(net(work.norm(x[b])), y[b])
            loss.backward()  # type: ignore[no-untyped-call]
            opt.step()
    return len(y)


def mark() -> None:
    """A round is over, for who watches from outside."""
    if marks := os.environ.get("MARKS"):
        with Path(marks).open("a") as file:
            file.write("round\n")


@torch.no_grad()
def accuracy(net: nn.Module, work: Work) -> float:
    """On the whole test set."""
    net.eval()
    hits = 0
    for i in range(0, len(work.ty), 500):
        hits += int((net(work.norm(work.tx[i : i + 500])).argmax(1) == work.ty[i : i + 500]).sum())
    return hits / len(work.ty)
