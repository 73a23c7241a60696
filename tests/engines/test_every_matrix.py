"""Weights that are no convolution's and no linear layer's: attention and recurrent layers, in every engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tests.engines.test_equality import EXACT, played, same


class Recurrent(nn.Module):
    def __init__(self, channels: int, size: int, classes: int, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(channels * size, 12, batch_first=True)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x.flatten(1, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels * size, 2, batch_first=True)
        self.fc = nn.Linear(channels * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))


def vision_transformer(channels: int, size: int, classes: int) -> nn.Module:
    class OfGrey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = VisionTransformer(size, 4, 1, 2, 16, 24, num_classes=classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x.expand(-1, 3, -1, -1))

    return OfGrey()


HERE = "tests.engines.test_every_matrix"
MODELS = {
    "GRU": ([f"model._target_={HERE}.Recurrent", "+model.kind=GRU"], {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}),
    "LSTM": ([f"model._target_={HERE}.Recurrent", "+model.kind=LSTM"], {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}),
    "MultiheadAttention": (
        [f"model._target_={HERE}.Attention"],
        {"attention.in_proj_weight", "attention.out_proj.weight"},
    ),
    "VisionTransformer": (
        [f"model._target_={HERE}.vision_transformer"],
        {f"vit.encoder.layers.encoder_layer_0.self_attention.{name}" for name in ("in_proj_weight", "out_proj.weight")},
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_each_matrix_ends_with_its_count_of_alive_weights_in_every_engine(tmp_path: Path, kind: str) -> None:
    overrides, names = MODELS[kind]
    asked = [*overrides, "sparsity=0.9", "rounds=4", "cohort=2", "local_epochs=1", "method=pffdst"]
    exact = played(tmp_path, [EXACT, *asked])
    layout, model = exact.setup.layout, exact.server.model
    assert names < {e.name for e in layout.layers}
    counts = [sum(stage.counts[i] for stage in exact.setup.stages) for i in range(len(layout.layers))]
    assert sum(counts) == round(0.1 * layout.maskable)
    network = exact.network
    network.write_(model.values)
    weights = dict(network.module.named_parameters())
    for (entry, alive), count in zip(layout.split(model.alive), counts, strict=True):
        assert int(alive.sum()) == count
        assert not bool(weights[entry.name][~alive].any())
    assert same(exact, played(tmp_path, ["engine=trainer", *asked]))
    batched = played(tmp_path, ["engine=batched", "engine.device=cpu", *asked])
    assert torch.allclose(model.values, batched.server.model.values, atol=1e-5)
    assert torch.equal(model.alive, batched.server.model.alive)
