"""Client-level privacy: the estimator, its noise, what it costs, and what it does not cover."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.build import parts
from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.facts import Facts
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.seeding import generator_for
from pffdst.methods.participation import Population, Uniform
from pffdst.methods.poisson import Poisson
from pffdst.methods.private_mean import PrivateMean, _orders, _per_round, epsilon
from pffdst.methods.rule import Cohort
from pffdst.wire.uplink import Report, Upload

pytest.importorskip("opacus")

MakeModel = Callable[..., GlobalModel]
MakeExperiment = Callable[..., Any]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
PRIVATE = ("aggregation=private_mean", "participation=poisson", "aggregation.delta=1e-3")
QUIET = {"max_norm": 0.5, "noise": 1e-12, "delta": 1e-5}


# ---- what it costs ----------------------------------------------------------------------------------------------


def test_epsilon_is_the_figure_of_the_librarys_own_test() -> None:
    assert epsilon(0.04, 1.5, 2250, 1e-5) == pytest.approx(7.32911117143, rel=1e-9)


def test_epsilon_is_the_papers_by_its_own_conversion_and_less_by_todays() -> None:
    """Abadi et al., 2016, section 3.2: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5 give 1.26."""
    curve = 10_000 * _per_round(0.01, 4.0)
    older = min(r + math.log(1e5) / (order - 1) for r, order in zip(curve, _orders(), strict=True))
    assert older == pytest.approx(1.26, abs=0.005)
    assert 1.0 < epsilon(0.01, 4.0, 10_000, 1e-5) < older


def test_epsilon_is_what_the_librarys_accountant_says_step_by_step() -> None:
    from opacus.accountants import RDPAccountant

    accountant, spent = RDPAccountant(), [epsilon(0.3, 1.1, t, 1e-4) for t in range(6)]
    assert spent[0] == 0.0
    for t in range(1, 6):
        accountant.step(noise_multiplier=1.1, sample_rate=0.3)
        assert spent[t] == pytest.approx(accountant.get_epsilon(delta=1e-4), rel=1e-9)


def test_epsilon_is_never_below_0_and_tells_no_one_of_orders() -> None:
    """Where delta covers more than a round costs, the library gives -0.0067; elsewhere it warns of its own orders."""
    assert epsilon(0.01, 5.0, 1, 0.009) == 0.0
    assert epsilon(1.0, 1e-3, 10, 1e-5) > 1e6


@pytest.mark.parametrize("noise", [0.5, 2.0, 20.0, 200.0, 2000.0])
def test_without_sampling_epsilon_is_a_close_bound_of_the_exact_one(noise: float) -> None:
    """Dong, Roth and Su, 2022: T Gaussian rounds give delta = P(-e/m + m/2) - exp(e) P(-e/m - m/2), m = sqrt(T) / z.

    With the library's own orders, which end at 63, small epsilons come out near 0.1.
    """

    def exact(e: float) -> float:
        m = math.sqrt(10) / noise
        below = [math.erfc((e / m + sign * m / 2) / math.sqrt(2)) / 2 for sign in (-1, 1)]
        return below[0] - math.exp(e) * below[1]

    told = epsilon(1.0, noise, 10, 1e-5)
    assert exact(told) <= 1e-5 * (1 + 1e-6), "it is a bound"
    assert exact(told / 1.5) > 1e-5, "and not far off"


def test_a_whole_population_is_no_sample() -> None:
    assert epsilon(1.0, 2.0, 3, 1e-5) > epsilon(0.1, 2.0, 3, 1e-5) > 0


# ---- the estimator ----------------------------------------------------------------------------------------------


def upload_of(model: GlobalModel, client: int) -> Upload:
    report = Report(10 + 90 * client, 0.1, 0.1)
    return Upload(client, report, model.trainable_at, model.trained, model.values[32:39], None)


def made(rule: PrivateMean, sent: GlobalModel, clients: Sequence[GlobalModel], expected: int, seed: int = 0) -> Cohort:
    """As a round does it: bounds, the sum, the rest."""
    from pffdst.methods.bounds import Screen

    running, screen = rule.begin(sent, "left_out"), Screen(rule.bounds, sent)
    for k, client in enumerate(clients):
        for one in screen.admit(upload_of(client, k)):
            running.add(one)
    return rule.finish(running.result(), sent, expected, seed)


@pytest.mark.parametrize("answering", [0, 2, 5])
def test_the_sum_of_bounded_changes_is_divided_by_k_whoever_answers(
    layout: Layout, make_model: MakeModel, answering: int
) -> None:
    sent = make_model(layout, alive=0.6, frozen=0.3)
    clients = [sent.with_trained(make_model(layout, 9 + k, 1.0).held[: len(sent.trained)],
                                 make_model(layout, 9 + k).rest) for k in range(answering)]  # fmt: skip
    found = made(PrivateMean(**QUIET), sent, clients, expected=3)
    expected = sent.values[:39].double().clone()
    for client in clients:
        change = (client.values - sent.values)[:39].double()
        expected += change * min(1.0, 0.5 / float(change.norm())) / 3
    assert torch.allclose(found.mean.values[:39].double(), expected, atol=1e-6)
    assert torch.equal(found.mean.values[39:], sent.values[39:])
    assert torch.equal(found.mean.weights[sent.frozen], sent.weights[sent.frozen])
    assert (found.samples, found.clients) == (3, 3), "how many answered, and with what, is nobody's to know"
    assert torch.equal(found.mean.alive_at.spread(found.support) > 0, sent.trainable)


def test_one_client_more_moves_the_sum_by_at_most_the_norm(layout: Layout, make_model: MakeModel) -> None:
    """The sensitivity that the noise is made for."""
    sent = make_model(layout, alive=0.6)
    others = [sent.with_trained(torch.randn(len(sent.trained)), torch.randn(10)) for _ in range(3)]
    far = sent.with_trained(torch.full_like(sent.trained, 1e6), torch.full_like(sent.rest, -1e6))
    with_it, without = (made(PrivateMean(**QUIET), sent, c, 4).mean.values for c in ([*others, far], others))
    assert 4 * float((with_it - without).double().norm()) <= 0.5 * (1 + 1e-5)


def test_the_noise_has_its_deviation_at_what_trains_and_is_nowhere_else(layout: Layout, make_model: MakeModel) -> None:
    """Mean 0, deviation z S / K, over many draws, at every trainable weight and parameter."""
    sent, rule = make_model(layout, alive=0.6, frozen=0.3), PrivateMean(max_norm=2.0, noise=1.5, delta=1e-5)
    draws = torch.stack([made(rule, sent, [], 6, seed).mean.values - sent.values for seed in range(4000)]).double()
    moved = torch.cat([sent.trainable, torch.tensor([True] * 7 + [False] * 3)])
    assert torch.equal(draws.abs().sum(0) > 0, moved)
    deviation = 1.5 * 2.0 / 6
    assert torch.allclose(draws[:, moved].std(0), torch.tensor(deviation).double(), rtol=0.06)
    assert float(draws[:, moved].mean(0).abs().max()) < 4.5 * deviation / 4000**0.5
    correlations = torch.corrcoef(draws[:, moved].T) - torch.eye(int(moved.sum()))
    assert float(correlations.abs().max()) < 0.09


def test_noise_and_cohorts_need_the_whole_seed(layout: Layout, make_model: MakeModel) -> None:
    """torch's generators use 32 bits of a seed: then four billion trials find the noise of a round, and take it off."""
    sent, rule = make_model(layout), PrivateMean(1.0, 1.0, 1e-5)
    population, far = Population(1000, lambda client: 1), 2**40
    assert not made(rule, sent, [], 6, 7).mean.same_as(made(rule, sent, [], 6, 7 + far).mean)
    one, other = (Poisson().cohort(0, population, 100, torch.Generator().manual_seed(7 + s)) for s in (0, far))
    assert one != other


def test_noise_and_cohorts_come_from_the_secret_and_the_seed(tmp_path: Path) -> None:
    """Every client and the model's file know the seed alone: it is no secret."""
    paths = [tmp_path / name for name in ("one", "other")]
    for k, path in enumerate(paths):
        path.write_bytes(bytes([k]) * 32)
    rules = [PrivateMean(1.0, 1.0, 1e-5, secret=str(path)) for path in paths]
    seeds = [rule.own_seed(seed) for rule in rules for seed in (0, 1)]
    assert len({*seeds, 0, 1}) == 6
    assert rules[0].own_seed(1) == PrivateMean(1.0, 1.0, 1e-5, secret=str(paths[0])).own_seed(1)
    assert PrivateMean(1.0, 1.0, 1e-5).own_seed(5) == 5
    assert rules[0].content != rules[1].content, "a run is not resumed with another secret"


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    [line] = problems("method=fedavg", *PRIVATE, f"aggregation.secret={path}")
    assert "cannot be read" in line
    assert "head -c 32 /dev/urandom" in line
    path.write_bytes(b"hunter2")
    [line] = problems("method=fedavg", *PRIVATE, f"aggregation.secret={path}")
    assert "has 7 bytes, which can be guessed" in line
    path.write_bytes(bytes(range(32)))
    assert problems("method=fedavg", *PRIVATE, f"aggregation.secret={path}") == []


def test_the_noise_is_a_named_draw(layout: Layout, make_model: MakeModel) -> None:
    sent, rule = make_model(layout), PrivateMean(1.0, 1.0, 1e-5)
    one, again, other = (made(rule, sent, [], 6, seed).mean for seed in (1, 1, 2))
    assert one.same_as(again)
    assert not one.same_as(other)


# ---- the cohort -------------------------------------------------------------------------------------------------


def test_every_client_takes_part_on_its_own() -> None:
    """Each with probability K / C; the number of a round has the binomial's mean and variance, two go independently."""
    population, rounds = Population(20, lambda client: 1), 6000
    seen = torch.zeros(rounds, 20)
    for t in range(rounds):
        cohort = Poisson().cohort(t, population, 5, generator_for(3, "cohort", t))
        assert list(cohort) == sorted(set(cohort))
        seen[t, list(cohort)] = 1.0
    assert torch.allclose(seen.mean(0), torch.tensor(0.25), atol=0.025)
    sizes = seen.sum(1)
    assert float(sizes.mean()) == pytest.approx(5.0, abs=0.1)
    assert float(sizes.var()) == pytest.approx(20 * 0.25 * 0.75, rel=0.08)
    assert float((torch.corrcoef(seen.T) - torch.eye(20)).abs().max()) < 0.06


# ---- what is refused --------------------------------------------------------------------------------------------


def problems(*overrides: str) -> list[str]:
    try:
        check(compose(overrides, CONFIGS))
    except ConfigError as error:
        return error.problems
    return []


def test_what_the_accountant_does_not_count_on_is_refused() -> None:
    assert problems("method=fedavg", *PRIVATE) == []
    [line] = problems("method=fedavg", *PRIVATE[::2])
    assert line.endswith("write participation=poisson")
    [line] = problems("method=fedavg", *PRIVATE, "+aggregation.statistics=average")
    assert "keep_server" in line
    [line] = problems("method=fedavg", *PRIVATE, "aggregation.delta=0.2")
    assert "below 0.05" in line
    for drawn in (Uniform(), Poisson(extra=1), Poisson(trace="windows.csv"), Poisson(deadline=5.0)):
        assert PrivateMean(1.0, 1.0, 1e-5).problems_among({"participation": drawn})
    for drawn in (Poisson(dropout_after=0.5), Poisson(deadline=float("inf"))):
        assert PrivateMean(1.0, 1.0, 1e-5).problems_among({"participation": drawn}) == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    [line] = PrivateMean(1.0, 1.0, 1e-5).problems(Facts(clients=20))
    assert "pip install 'pffdst[privacy]'" in line


ASK = {
    "fedtiny", "fedmef", "fedrts", "fedsgc", "feddst", "feddst_prox", "flash", "flash_moving", "pffdst_flash",
    "prunefl", "prunefl_exact", "sparsyfed", "snip", "ssfl", "grasp", "scaffold", "topk_ef",
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_rules_that_ask_single_clients_for_more_are_refused_by_name(method: str) -> None:
    cfg = compose([f"method={method}", *PRIVATE, "rounds=40", "logger=csv", "dataset.test_share=0.8"], CONFIGS)
    if method not in ASK:
        assert parts(cfg).setup.faulty.clients == frozenset()
        return
    with pytest.raises(ConfigError, match="asks individual clients for signals or masks of their own"):
        parts(cfg)


def test_the_page_names_them() -> None:
    page = (CONFIGS.parent / "docs" / "robustness.md").read_text()
    assert all(f"`{method}`" in page for method in ASK)


# ---- runs -------------------------------------------------------------------------------------------------------

RUN = (
    *("method=pffdst", *PRIVATE, "seed=4", "clients=10", "cohort=2", "rounds=12", "eval_every=4"),
    "readjust.schedule.interval=1",
)


def test_a_run_tells_its_epsilon_and_no_clients_loss(
    make_experiment: MakeExperiment, caplog: pytest.LogCaptureFixture
) -> None:
    """Rounds without a client among them: they have noise too."""
    from pffdst.run import play_round

    caplog.set_level("INFO")
    experiment, rows, sizes, moved = make_experiment(*RUN), [], Counter[int](), []
    with experiment.engine.open(experiment.setup), experiment.loggers as loggers:
        loggers.open(experiment.info, None)
        for t in range(12):
            done = play_round(experiment, t)
            rows.append(experiment.progress.row)
            sizes[len(done.plan.cohort)] += 1
            moved.append(not done.server.model.same_as(done.planned))
    assert sizes[0] > 0
    assert all(moved)
    assert caplog.text.count("no update arrived, only the private mean's noise was added") == sizes[0]
    assert "unchanged" not in caplog.text
    spent = [row["privacy/epsilon"] for row in rows]
    assert spent == [epsilon(0.2, 1.0, t + 1, 1e-3) for t in range(12)]
    assert spent == sorted(spent)
    assert not any("train/loss" in row for row in rows)
    summary = experiment.finish()
    assert (summary["privacy_epsilon"], summary["privacy_delta"]) == (spent[-1], 1e-3)
    model = experiment.server.model
    assert bool((model.weights[~model.alive] == 0).all())


def test_with_a_secret_only_noise_and_cohorts_are_others(
    make_experiment: MakeExperiment, play: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The initial model and the clients' samples come from the seed, so private runs compare with others."""
    told, ends, cohorts, starts = [], [], [], []
    for k in (None, 0, 1):
        caplog.clear()
        (tmp_path / f"{k}").write_bytes(bytes([k or 0]) * 32)
        experiment = make_experiment(*RUN, *([] if k is None else [f"aggregation.secret={tmp_path / str(k)}"]))
        told.append("epsilon only holds in simulation" in caplog.text)
        starts.append(experiment.server.model)
        cohorts.append([experiment.server._asked(t) for t in range(12)])
        play(experiment)
        ends.append(experiment.server.model)
    assert told == [True, False, False]
    assert all(start.same_as(starts[0]) for start in starts)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert cohorts[a] != cohorts[b]
        assert not ends[a].same_as(ends[b])


@pytest.mark.parametrize("model", ["resnet18", "cnn"])
def test_statistics_that_stay_as_they_began_are_told(
    make_experiment: MakeExperiment, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    width = ["model.width=8"] if model == "resnet18" else []
    experiment = make_experiment(*RUN, f"model={model}", *width)
    told = "clients send no normalisation statistics" in caplog.text
    assert told == (experiment.setup.layout.rest[1] > 0)
    assert told == (model == "resnet18")


def test_the_number_of_workers_changes_nothing(make_experiment: MakeExperiment, play: Callable[..., Any]) -> None:
    ends = []
    for engine in ("engine.workers=0", "engine.workers=2"):
        experiment = make_experiment(*RUN, engine)
        play(experiment)
        ends.append(experiment.server.model)
    assert ends[0].same_as(ends[1])
