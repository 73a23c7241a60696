"""Networks of texts: what they look past, what is masked, what is counted."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pffdst.core.flat import initialise, layout_of
from pffdst.core.inputs import TokenInputs
from pffdst.core.probe import probe
from pffdst.core.trace import trace
from pffdst.cost.flops import FlopCounter
from pffdst.models.transformer import TextTransformer

INPUTS = TokenInputs(60, 24, 0, 9)


def transformer(**keys: int | None) -> torch.nn.Module:
    sizes = {"width": 16, "heads": 2, "hidden": 20, **keys}
    return initialise(lambda: TextTransformer(**INPUTS.arguments(), classes=3, **sizes), 0, INPUTS)


def test_padding_changes_nothing() -> None:
    network = transformer().eval()
    tokens = INPUTS.random(4)
    padded = torch.cat([tokens, torch.zeros(4, 11, dtype=torch.int64)], dim=1)
    assert torch.allclose(network(tokens), network(padded), atol=1e-6)
    assert bool(network(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all())  # texts without a word


@pytest.mark.parametrize("embedding", [None, 6])
def test_its_linear_layers_have_masks_and_embeddings_none(embedding: int | None) -> None:
    network = transformer(embedding=embedding)
    assert probe(network, INPUTS, 3) == []
    layout = layout_of(network, trace(network, INPUTS), ["head"])
    linear = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)} - {"head.weight"}
    assert {e.name for e in layout.layers} == linear
    assert len(linear) == 12 + (embedding is not None)


def test_flops_are_those_of_torch_s_counter_for_a_text_of_typical_length() -> None:
    network = transformer()
    seen = trace(network, INPUTS)
    layout = layout_of(network, seen)
    counted = FlopCounter.counted(seen, layout)
    with FlopCounterMode(display=False) as forward:
        loss = network(INPUTS.random(1)).sum()
    dense = [e.size for e in layout.layers]
    assert counted.forward(dense) == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert counted.training(dense, dense) == forward.get_total_flops() + backward.get_total_flops()
    attention = 2 * (2 * 2 * 2 * 9 * 9 * 8)  # two layers, scores and values, two heads of 8
    assert counted.rest.forward == attention
