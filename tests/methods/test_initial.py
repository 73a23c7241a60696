"""Initial weights of a sparse model: signals as large as in the dense one, from the first round on."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pffdst.build import Parts, parts
from pffdst.config.compose import compose
from pffdst.core.errors import UserError
from pffdst.core.flat import FlatModule, initialise
from pffdst.core.masks import draw
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed
from pffdst.methods.allocation import Erk
from pffdst.methods.initial import scaled_to_density

BEGIN_DENSE = ("snip", "ssfl", "grasp", "synflow", "sparsyfed")


def network() -> nn.Module:
    """Five layers, in which signals that shrink in each are lost."""
    widths = (64, 256, 256, 256, 256, 10)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (nn.ReLU(), layer)))


@settings(max_examples=20)
@given(st.integers(0, 2**20), st.floats(0.05, 0.3))
def test_outputs_on_digits_vary_as_those_of_the_dense_model_do(seed: int, density: float) -> None:
    flat = FlatModule(initialise(network, seed))
    dense, layout = flat.read(), flat.layout
    counts = Erk().counts(layout, density)
    alive = torch.ones(layout.total, dtype=torch.bool)
    alive[: layout.maskable] = draw(Positions.none(layout), counts, derive_seed(seed, "grow", 0)).bits
    images = torch.as_tensor(load_digits().data, dtype=torch.float32)

    def spread(values: Tensor) -> float:
        flat.write_(values)
        with torch.inference_mode():
            return float(flat.module(images).std(0).mean())

    scaled = spread(torch.where(alive, scaled_to_density(dense, layout, counts), 0.0))
    assert 0.5 < scaled / spread(dense) < 2.0
    assert spread(torch.where(alive, dense, 0.0)) / spread(dense) < 0.5


@pytest.mark.parametrize("method", ["pffdst", "feddst"])
def test_a_run_scales_its_layers_to_what_is_alive_when_it_starts(make_experiment: Any, play: Any, method: str) -> None:
    short = (f"method={method}", "rounds=4", "readjust.schedule.interval=1")
    plain = play(make_experiment(*short, "sparse_init=false"))[0].planned
    scaled = play(make_experiment(*short, "sparse_init=true"))[0].planned
    assert torch.equal(plain.alive, scaled.alive)
    assert torch.equal(plain.values[plain.layout.maskable :], scaled.values[plain.layout.maskable :])
    for entry, k in zip(plain.layout.layers, plain.layout.per_layer(plain.alive), strict=True):
        expected = plain.values[entry.span] * (entry.size / k) ** 0.5
        assert torch.allclose(scaled.values[entry.span], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("model", "same_as"), [("cnn", "true"), ("resnet18", "false"), *((f"cnn method={m}", "false") for m in BEGIN_DENSE)]
)
def test_by_itself_it_scales_what_no_normalisation_divides_out(config_dir: Path, model: str, same_as: str) -> None:
    def initial(choice: str) -> Tensor:
        width = ["model.width=4"] if model == "resnet18" else []
        return parts(
            compose(["logger=csv", *f"model={model}".split(), *width, f"sparse_init={choice}"], config_dir)
        ).model.values

    assert torch.equal(initial("auto"), initial(same_as))
    assert not torch.equal(initial("true"), initial("false"))


def test_a_sparsity_that_leaves_a_stage_nothing_is_refused_with_the_most(config_dir: Path) -> None:
    def made(sparsity: str) -> Parts:
        return parts(compose(["logger=csv", f"sparsity={sparsity}"], config_dir))

    with pytest.raises(UserError, match=r"leaves stage 1 of 2 without any .* 13,584 weights") as refused:
        made("0.9999")
    [most] = re.findall(r"write at most sparsity=(\S+)", str(refused.value))
    assert all(sum(stage.counts) > 0 for stage in made(most).setup.stages)


def test_a_layer_without_weights_is_no_obstacle() -> None:
    flat = FlatModule(network())
    counts = [0, *(entry.size for entry in flat.layout.layers[1:])]
    assert torch.isfinite(scaled_to_density(flat.read(), flat.layout, counts)).all()
