"""SNIP, SSFL and GraSP: what clients score, what the server keeps of it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pffdst.core.errors import UserError
from pffdst.core.facts import Facts
from pffdst.core.flat import FlatModule
from pffdst.core.masks import greatest_overall
from pffdst.core.model import Entry, GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for
from pffdst.methods.readjust.grasp import Grasp
from pffdst.methods.readjust.scored import Scored
from pffdst.methods.readjust.snip import Snip
from pffdst.methods.rule import Answer, Chosen, Start
from pffdst.run import play_round

LAYOUT = Layout((Entry("a", (4, 5), 0, "maskable"), Entry("b", (3, 4), 20, "maskable")))
STAGE = Stage(0, 0, 10, (6, 4))


def model_of(layout: Layout = LAYOUT, seed: int = 0, frozen: Tensor | None = None) -> GlobalModel:
    values = torch.randn(layout.total, generator=generator_for(seed, "values"))
    everything = torch.ones(layout.maskable, dtype=torch.bool)
    if frozen is None:
        return GlobalModel(layout, values, everything, ~everything)
    return GlobalModel(layout, values, frozen, frozen)


def scores(seed: int) -> Tensor:
    return torch.rand(LAYOUT.maskable, generator=generator_for(seed, "scores"))


def started(rule: Scored, model: GlobalModel, stage: Stage = STAGE, density: float = 10 / 32) -> Positions:
    return rule.start(Start(model, stage, density, 0))


# ---- the choice over all layers ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(0, 32), least=st.integers(0, 6))
def test_the_best_of_all_layers_are_taken_and_no_layer_is_left_empty(seed: int, count: int, least: int) -> None:
    score = (scores(seed) * 8).round()  # with ties
    chosen = greatest_overall(Positions.all(LAYOUT), score, count, least)
    assert len(chosen) == count
    if count >= 2 * least:
        assert min(chosen.counts) >= least
    order = sorted(range(32), key=lambda j: (-float(score[j]), j))
    spared = [[j for j in order if (j < 20) == (layer == 0)][:least] for layer in (0, 1)]
    wanted = [j for j in order if any(j in own for own in spared)]
    wanted += [j for j in order if j not in wanted]
    assert chosen.index.tolist() == sorted(wanted[:count])


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 33 candidates, but got 32"):
        greatest_overall(Positions.all(LAYOUT), scores(0), 33)


# ---- the server ----------------------------------------------------------------------------------------------------


def test_the_mean_is_weighted_by_samples_and_what_was_not_sent_counts_nothing() -> None:
    """By hand: 10 samples say 1 at position 3, 90 samples say .2 at position 7, one client sends its top alone."""
    rule = Snip(least=0)
    loud, many = torch.zeros(32), torch.zeros(32)
    loud[3], many[7], many[21] = 1.0, 0.2, 0.05
    at = Positions(LAYOUT, index=torch.tensor([3]))
    rule.observe(0, None, 10, {"score": Chosen(at, at.gather(loud))}, STAGE, -1)
    rule.observe(1, None, 90, {"score": many}, STAGE, -1)
    # sums: 10 at 3, 18 at 7, 4.5 at 21
    one, two = Stage(0, 0, 10, (1, 0)), Stage(0, 0, 10, (2, 0))
    kept = rule.state_dict()
    assert started(rule, model_of(), one, 1 / 32).index.tolist() == [7]
    rule.load_state_dict(kept, LAYOUT)
    assert started(rule, model_of(), two, 2 / 32).index.tolist() == [3, 7]


def test_a_second_stage_goes_on_with_the_next_best() -> None:
    """Two stages of half the weights choose, together, what one stage chooses."""
    whole, rule = Snip(least=0), Snip(least=0)
    for own in (whole, rule):
        own.observe(0, None, 5, {"score": scores(1)}, STAGE, -1)
    first = started(rule, model_of(), Stage(0, 0, 5, (3, 2)))
    second = started(rule, model_of(frozen=first.bits), Stage(1, 5, 10, (3, 2)))
    assert len(second) == 5
    assert not bool((first.bits & second.bits).any())
    assert first.plus(second) == started(whole, model_of())
    assert rule.state_dict() == {"sum": None}  # nobody will ask again


def test_without_any_scores_there_is_an_error_that_says_so() -> None:
    with pytest.raises(UserError, match="no client's scores"):
        started(Snip(), model_of())


# ---- the client ----------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two layers with a normalisation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))  # type: ignore[no-any-return]


@pytest.fixture
def turn() -> Iterator[Any]:
    """A client's turn in round -1 as rules see it, in double precision, on one batch of 12."""
    torch.manual_seed(3)
    network = Small().double()
    batch = torch.randn(12, 6, dtype=torch.float64), torch.randint(3, (12,))
    weights = [network.first.weight, network.second.weight]

    class Undisturbed:
        def __init__(self, training: bool) -> None:
            self.training = training

        def __enter__(self) -> None:
            network.train(self.training)

        def __exit__(self, *_: Any) -> None:
            network.train()

    def loss(given: Any, temperature: float = 1.0) -> Tensor:
        return nn.functional.cross_entropy(network(given[0]) / temperature, given[1])

    def gradient(stream: str, *, training: bool) -> Tensor:
        with Undisturbed(training):
            return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(batch), weights)])

    return SimpleNamespace(
        t=-1, weights=weights, batch=lambda stream: batch, loss=loss, gradient=gradient, network=network,
        undisturbed=lambda training=True: Undisturbed(training),
        values=lambda: torch.cat([w.detach().reshape(-1) for w in weights]),
    )  # fmt: skip


def test_snip_scores_by_how_much_the_loss_changes_with_a_factor_on_a_weight(turn: Any) -> None:
    """|dL/dc| at c = 1 of L(c w): central differences, position by position."""
    score = Snip(normalise="none").score(turn)
    assert bool((score >= 0).all())
    turn.network.eval()
    for layer, at in ((0, (2, 3)), (1, (1, 4))):
        weight, step, found = turn.weights[layer], 1e-6, []
        own = weight[at].item()
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                weight[at] = own * factor
            found.append(turn.loss(turn.batch("")).item())
        with torch.no_grad():
            weight[at] = own
        flat = at[0] * weight.shape[1] + at[1] + (30 if layer == 1 else 0)
        assert float(score[flat]) == pytest.approx(abs(found[0] - found[1]) / (2 * step), rel=1e-4)


def test_grasp_scores_by_how_much_the_gradient_norm_changes_when_a_weight_shrinks(turn: Any) -> None:
    """|g|^2 changes by -2 eps w (H g) when w becomes (1 - eps) w: central differences of the norm itself."""
    rule = Grasp(temperature=5.0, normalise="none")
    score = rule.score(turn)

    def squared_norm() -> float:
        turn.network.train()
        gradients = torch.autograd.grad(turn.loss(turn.batch(""), 5.0), turn.weights)
        return float(torch.stack([(g * g).sum() for g in gradients]).sum())

    for layer, at in ((0, (2, 3)), (1, (1, 4))):
        weight, step, found = turn.weights[layer], 1e-5, []
        own = weight[at].item()
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                weight[at] = own * factor
            found.append(squared_norm())
        with torch.no_grad():
            weight[at] = own
        flat = at[0] * weight.shape[1] + at[1] + (30 if layer == 1 else 0)
        assert float(score[flat]) == pytest.approx((found[0] - found[1]) / (4 * step), rel=1e-4)
    assert bool((score < 0).any())
    assert bool((score > 0).any())


def test_the_temperature_changes_the_ranking_of_grasp(turn: Any) -> None:
    hot, cold = Grasp(temperature=200.0).score(turn), Grasp(temperature=1.0).score(turn)
    assert hot.argsort().tolist() != cold.argsort().tolist()


@pytest.mark.parametrize("rule", [Snip(), Grasp()])
def test_normalised_scores_have_magnitudes_of_sum_one(rule: Scored, turn: Any) -> None:
    measured = rule.measure(turn)["score"]
    assert float(measured.abs().sum()) == pytest.approx(1.0, abs=1e-5)
    other = type(rule)(normalise="none").measure(turn)["score"]
    assert torch.allclose(other / other.abs().sum(), measured, atol=1e-7)


def test_the_top_of_a_client_is_what_it_would_keep_and_never_by_magnitude() -> None:
    """GraSP's are signed: a large negative w (H g) is the first to go, not the first to be sent."""
    score = scores(2) - 0.5
    rule, trained = Grasp(sent="top"), Answer(model_of())
    sent = rule.answer(trained, {"score": score}, STAGE, -1).signals["score"]
    assert isinstance(sent, Chosen)
    assert len(sent.at) == 10
    assert sorted(sent.values.tolist()) == sorted(score.tolist())[-10:]
    assert torch.equal(sent.values, score[sent.at.index])


def test_rounds_that_are_not_the_last_before_round_0_ask_nothing() -> None:
    rule = Snip()
    for t in (-2, 0, 3):
        assert rule.up(STAGE, t) == ()
        assert rule.probes(STAGE, t) == 0
        assert rule.measure(SimpleNamespace(t=t)) == {}  # type: ignore[arg-type]
    assert (rule.probes(STAGE, -1), Grasp().probes(STAGE, -1)) == (1, 3)


# ---- whole runs ----------------------------------------------------------------------------------------------------


def first_rounds(experiment: Any) -> Any:
    """Plays the rounds before round 0 and round 0 itself; gives the rounds."""
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        return [play_round(experiment, t) for t in range(experiment.first, 1)]


@pytest.mark.parametrize("method", ["snip", "ssfl", "grasp"])
@pytest.mark.parametrize("sent", ["all", "top"])
def test_a_run_has_exactly_the_weights_asked_for(make_experiment: Callable[..., Any], method: str, sent: str) -> None:
    experiment = make_experiment(f"method={method}", "rounds=2", "sparsity=0.9", f"readjust.sent={sent}")
    scoring, first = first_rounds(experiment)
    W = experiment.setup.layout.maskable
    assert len(scoring.plan.cohort) == 5  # every client, though the cohort is 3
    assert len(first.planned.alive_at) == round(0.1 * W)
    initial = scoring.planned
    assert initial.alive_at.everything
    assert torch.equal(first.planned.held, initial.alive_at.carry(initial.held, first.planned.alive_at))
    # 4 bytes a score: all W of each client, or the top tenth with their positions
    bill = experiment.ledger.total["up/signals"]
    bound = 4 * W * 5
    assert bill < bound if sent == "all" else bill < 0.15 * bound
    assert bill > 0.5 * bound if sent == "all" else bill > 0.08 * bound


def test_the_server_keeps_what_a_mean_of_the_clients_own_scores_says(make_experiment: Callable[..., Any]) -> None:
    """SSFL: the scores again, from the clients' samples and an optimizer's eyes; p_k in proportion to samples."""
    experiment = make_experiment("method=ssfl", "rounds=2", "sparsity=0.9", "batch_size=1000")
    scoring, first = first_rounds(experiment)
    setup = experiment.setup
    images, network = setup.data, setup.network.eval()
    FlatModule(network, setup.layout).write_(scoring.planned.values)
    total = torch.zeros(setup.layout.maskable, dtype=torch.float64)
    for client in range(setup.clients):
        own = setup.indices(client)
        x = (images.images[own] / 255 - torch.tensor(setup.inputs.mean).view(1, -1, 1, 1)) / torch.tensor(
            setup.inputs.std
        ).view(1, -1, 1, 1)
        loss = nn.functional.cross_entropy(network(x), images.labels[own])
        weights = [p for n, p in network.named_parameters() if n.endswith("weight")]
        gradients = torch.autograd.grad(loss, weights)
        score = torch.cat([(g * w).abs().reshape(-1) for g, w in zip(gradients, weights, strict=True)])
        total += setup.samples(client) * score.double()
    k = len(first.planned.alive_at)
    expected = torch.zeros_like(first.planned.alive)
    expected[total.topk(k).indices] = True
    assert (first.planned.alive != expected).sum() <= 2  # sums of single precision in another order


@pytest.mark.parametrize("method", ["snip", "ssfl", "grasp"])
def test_dense_it_is_fedavg(make_experiment: Callable[..., Any], method: str) -> None:
    """At s = 0 nothing is cut: the model after round 0 is FedAvg's, to the bit."""
    rounds = "rounds=2"
    scored = make_experiment(f"method={method}", rounds, "sparsity=0", "local_epochs=1")
    plain = make_experiment("method=fedavg", rounds, "sparsity=0", "local_epochs=1")
    first_rounds(scored), first_rounds(plain)
    assert torch.equal(scored.server.model.values, plain.server.model.values)


def test_scoring_leaves_no_trace_in_a_network_with_normalisation(make_experiment: Callable[..., Any]) -> None:
    """`undisturbed` puts mode, statistics and gradients back."""
    from pffdst.client.module import ClientModule

    setup = make_experiment("method=snip", "rounds=2").setup
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    module = ClientModule(network, setup.training, setup.inputs, channels_last=False)
    before = [t.clone() for t in module.flat.tensors]
    batch = setup.data.images[:16], setup.data.labels[:16]
    gradients = [module.gradient_of(batch, training=training) for training in (True, False)]
    assert not torch.allclose(*gradients)
    assert all(torch.equal(a, b) for a, b in zip(before, module.flat.tensors, strict=True))
    assert network.training
    assert network[1].training
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("key", "value"), [("init_share", 0.0), ("init_share", 1.1), ("sent", "some"), ("normalise", "max"), ("least", -1)]
)
def test_what_cannot_be_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"readjust.{key}"):
        Snip(**{key: value})


def test_top_scores_do_not_reach_to_a_second_stage() -> None:
    assert Snip().problems(Facts(stage_lengths=(7, 7))) == []
    assert Snip(sent="top").problems(Facts(stage_lengths=(14,))) == []
    assert "readjust.sent=all" in Snip(sent="top").problems(Facts(stage_lengths=(7, 7)))[0]


def test_no_layer_is_left_empty_where_its_scores_are_all_the_least() -> None:
    for least, expected in ((1, [0, 20]), (0, [0, 1])):
        rule, score = Snip(least=least), torch.zeros(32)
        score[:20], score[20:] = torch.arange(20, 0, -1), torch.arange(0.12, 0.0, -0.01)[:12]
        rule.observe(0, None, 1, {"score": score}, STAGE, -1)
        assert started(rule, model_of(), Stage(0, 0, 10, (1, 1)), 2 / 32).index.tolist() == expected
