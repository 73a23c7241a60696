"""What every option of the groups that are a part of a run must keep."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from pffdst.config.constructors import accepted_keys, locate
from pffdst.core.flat import FlatModule, layout_of
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.cost.flops import FlopCounter
from pffdst.methods.participation import Population
from pffdst.testing import check_time
from pffdst.wire.frame import Section, WireError
from pffdst.wire.uplink import Report, Upload

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def options(group: str) -> list[Any]:
    return [pytest.param(OmegaConf.load(path), id=path.stem) for path in sorted((CONFIGS / group).glob("*.yaml"))]


# ---- aggregation ------------------------------------------------------------------------------------------------


def random_mean(model: GlobalModel, t: int) -> GlobalModel:
    """What a round of clients can bring: other values where training may change them."""
    generator = generator_for(t, "mean")
    trained = torch.randn(model.trained.shape, generator=generator)
    return model.with_trained(trained, torch.randn(model.rest.shape, generator=generator))


def mean_of(rule: Any, sent: GlobalModel, clients: list[GlobalModel]) -> GlobalModel:
    running = rule.begin(sent, "left_out")
    for k, c in enumerate(clients):
        running.add(Upload(k, Report(10 + k, 0.1, 0.1), c.trainable_at, c.trained, c.rest[:7], c.rest[7:]))
    mean: GlobalModel = running.result().mean
    return mean


@pytest.mark.parametrize("node", options("aggregation"))
def test_an_aggregation_moves_trainable_weights_alone(
    node: DictConfig, layout: Layout, make_model: Callable[..., GlobalModel]
) -> None:
    model = make_model(layout, alive=0.6, frozen=0.4)
    for t in range(4):
        mean = mean_of(instantiate(node), model, [random_mean(model, 5 * t + k) for k in range(3)])
        assert mean.dtype == model.dtype
        assert torch.equal(mean.alive, model.alive)
        assert torch.equal(mean.frozen, model.frozen)
        assert torch.equal(mean.weights[~model.trainable], model.weights[~model.trainable])
        model = mean


@pytest.mark.parametrize("node", options("aggregation"))
def test_an_aggregation_stays_where_all_clients_are(
    node: DictConfig, layout: Layout, make_model: Callable[..., GlobalModel]
) -> None:
    model = make_model(layout)
    assert torch.allclose(mean_of(instantiate(node), model, [model] * 3).values, model.values, atol=1e-7)
    assert instantiate(node).begin(model, "left_out").result() is None
    assert instantiate(node).statistics in ("average", "keep_server")


# ---- server optimizer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", options("server_optimizer"))
def test_a_server_optimizer_moves_trainable_weights_alone(
    node: DictConfig, layout: Layout, make_model: Callable[..., GlobalModel]
) -> None:
    rule, model = instantiate(node), make_model(layout, alive=0.6, frozen=0.4)
    for t in range(4):
        stepped = rule.step(model, random_mean(model, t))
        assert stepped.dtype == model.dtype
        assert torch.equal(stepped.alive, model.alive)
        assert torch.equal(stepped.frozen, model.frozen)
        assert torch.equal(stepped.weights[~model.trainable], model.weights[~model.trainable])
        model = stepped


@pytest.mark.parametrize("node", options("server_optimizer"))
def test_a_server_optimizer_stays_where_all_clients_are(
    node: DictConfig, layout: Layout, make_model: Callable[..., GlobalModel]
) -> None:
    model = make_model(layout)
    assert instantiate(node).step(model, model).same_as(model)


@pytest.mark.parametrize("node", options("server_optimizer"))
def test_a_server_optimizer_goes_through_a_checkpoint(
    node: DictConfig, layout: Layout, make_model: Callable[..., GlobalModel]
) -> None:
    kept, again, model = instantiate(node), instantiate(node), make_model(layout)
    again.load_state_dict(kept.state_dict(), layout)
    for t in range(3):
        assert kept.step(model, random_mean(model, t)).same_as(again.step(model, random_mean(model, t)))
        again = instantiate(node)
        again.load_state_dict(kept.state_dict(), layout)


# ---- codec ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", options("codec"))
def test_a_codec_gives_as_many_finite_values_as_are_due(node: DictConfig) -> None:
    codec = instantiate(node)
    for count in (0, 1, 7, 1000):
        values = torch.randn(count, generator=generator_for(count, "values"))
        back = codec.decode(codec.encode(values), count, "X")
        assert (back.dtype, back.shape) == (values.dtype, values.shape)
        assert torch.equal(codec.decode(codec.encode(torch.zeros(count)), count, "X"), torch.zeros(count))
        for wrong in (count + 1, count + 8):
            with pytest.raises(WireError, match="X"):
                codec.decode(codec.encode(values), wrong, "X")
    with pytest.raises(WireError, match="X"):
        codec.decode(codec.encode(torch.tensor([1.0, float("nan")])), 2, "X")
    with pytest.raises(WireError, match="X"):
        codec.decode(Section(255, b""), 0, "X")


# ---- participation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", options("participation"))
@pytest.mark.parametrize(("clients", "size"), [(1, 1), (10, 4), (10, 10)])
def test_a_cohort_is_k_different_clients_named_by_its_draw(node: DictConfig, clients: int, size: int) -> None:
    population = Population(clients, lambda client: 10 + client)
    cohort, again = (instantiate(node).cohort(1, population, size, generator_for(0, "cohort", 1)) for _ in range(2))
    assert cohort == again == tuple(sorted(set(cohort)))
    assert len(cohort) == size or not instantiate(node).fixed
    assert set(cohort) <= set(range(clients))


@pytest.mark.parametrize("node", options("participation"))
def test_whoever_draws_takes_the_keys_that_all_have(node: DictConfig, tmp_path: Path) -> None:
    """Beside K others are asked, none outside the trace, and each is lost with its probability."""
    trace = tmp_path / "trace.csv"
    trace.write_text("client,from,to\n" + "".join(f"{k},1,{k}\n" for k in range(1, 10)))
    rule = instantiate(node, extra=2, trace=str(trace), dropout_before=0.25, dropout_after=0.5)
    population = Population(10, lambda client: 10 + client)
    for t, there in ((0, 9), (6, 3), (8, 1), (20, 0)):
        cohort = rule.asked(t, population, 3, seed=0)
        assert len(cohort) == min(5, there) or (not rule.fixed and len(cohort) <= there)
        assert set(cohort) <= set(range(t + 1, 10)), "only those who can be asked"
    losses = [rule.loss(t, client, 0) for t in range(100) for client in range(20)]
    for when, share in (("before", 0.25), ("after", 0.375), (None, 0.375)):
        assert abs(losses.count(when) / len(losses) - share) < 0.04
    assert losses == [rule.loss(t, client, 0) for t in range(100) for client in range(20)]
    assert all(len(set(losses[t : t + 20])) > 1 for t in range(0, 2000, 20)), "each client's draw is its own"


# ---- time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", [n for n in options("time") if not OmegaConf.missing_keys(n.values[0])])
def test_a_client_has_one_device(node: DictConfig) -> None:
    check_time(instantiate(node))


# ---- model ------------------------------------------------------------------------------------------------------


IMAGE_MODELS = [one for one in options("model") if "channels" in (accepted_keys(locate(one.values[0]._target_)) or ())]
"""Those of texts are looked at in tests/text."""


@pytest.mark.parametrize("node", IMAGE_MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_takes_images_from_its_least_size_on_and_gives_logits(node: DictConfig, channels: int) -> None:
    size = get_class(node._target_).min_size
    network = instantiate(node, channels=channels, size=size, classes=7)
    assert network.eval()(torch.randn(2, channels, size, size)).shape == (2, 7)
    layout = layout_of(network)
    assert layout.maskable > 0.9 * layout.parameters
    flops = FlopCounter.of(network, layout, (channels, size, size))
    assert all(cost.forward > 0 for cost in flops.costs)


@pytest.mark.parametrize("node", IMAGE_MODELS)
def test_a_model_reaches_other_processes_as_it_is(node: DictConfig) -> None:
    network = instantiate(node, channels=1, size=16, classes=3)
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(FlatModule(again).read(), FlatModule(network).read())
