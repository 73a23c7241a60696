"""What every option of configs/method must keep over a whole run on digits, round by round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.core.model import GlobalModel
from pffdst.methods.rule import Rule
from pffdst.models.saved import SavedModel
from pffdst.wire.downlink import Memory, decode_downlink, remember
from pffdst.wire.frame import Tag, unpack
from pffdst.wire.uplink import decode_uplink

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
R = 14


def overrides(method: str) -> list[str]:
    """Small and lively: readjustment in every round that allows one."""
    lively = [f"method={method}", f"rounds={R}", "sparsity=0.5", "lr=0.05", "batch_size=16", "local_epochs=2"]
    for key, value in (("schedule.interval", 1), ("alpha", 0.5)):
        if any(
            f"{key.split('.')[-1]}:" in (CONFIGS / "readjust" / f"{name}.yaml").read_text()
            for name in readjust_of(method)
        ):
            lively.append(f"readjust.{key}={value}")
    if method == "pffdst_flash":  # random masks of even layers: at torch's scale signals vanish, and rounds are few
        lively.append("sparse_init=true")
    return lively


def readjust_of(method: str) -> list[str]:
    lines = (CONFIGS / "method" / f"{method}.yaml").read_text().splitlines()
    return [line.split(":")[1].strip() for line in lines if "override /readjust" in line]


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, make_experiment: Callable[..., Any], play: Callable[..., Any]) -> Any:
    experiment = make_experiment(*overrides(request.param))
    rounds = play(experiment)
    return experiment, rounds, experiment.finish()


def chooses_counts(experiment: Any) -> bool:
    """Whether the rule chooses the first mask over all layers at once: then the layers' sum alone is asked for."""
    return type(experiment.setup.method.readjust).start is not Rule.start


def holds_for_a_while(experiment: Any) -> bool:
    """Whether single weights are frozen and let go again: their laws are in test_laws.py and of their own."""
    return any(rule.sends_changes for rule in experiment.setup.method)


def keeps_density(experiment: Any) -> bool:
    return all(rule.keeps_density for rule in experiment.setup.method)


def models(rounds: list[Any]) -> list[GlobalModel]:
    return [model for r in rounds for model in (r.planned, r.concluded)]


def test_dead_weights_are_zero_in_every_round(run: Any) -> None:
    _, rounds, _ = run
    assert all(bool((m.weights[~m.alive] == 0).all()) for m in models(rounds))


def test_frozen_weights_keep_their_bits_from_the_freeze_on(run: Any) -> None:
    experiment, rounds, _ = run
    if holds_for_a_while(experiment):
        pytest.skip("single weights are frozen and let go again")
    frozen, values = rounds[0].planned.frozen, rounds[0].planned.values
    for r in rounds:
        if r.plan.froze:
            assert r.t == R // 2
            frozen, values = r.planned.frozen, r.planned.values
            assert torch.equal(frozen, rounds[r.t - 1].concluded.alive)
        for model in (r.planned, r.concluded):
            assert torch.equal(model.frozen, frozen)
            assert not bool((frozen & ~model.alive).any())
            at = frozen.nonzero().flatten()
            assert torch.equal(model.values[at].view(torch.int32), values[at].view(torch.int32))
    assert any(r.plan.froze for r in rounds) == (len(experiment.server.rules.stages) == 2)


def test_trainable_weights_are_the_stages_when_exploration_is_over(run: Any) -> None:
    experiment, rounds, _ = run
    method = experiment.setup.method
    if holds_for_a_while(experiment) or not keeps_density(experiment):
        pytest.skip("the trainable set is what a round's values make it, not a count")
    for r in rounds:
        trainable = tuple(r.concluded.layout.per_layer(r.concluded.trainable))
        if chooses_counts(experiment):
            assert r.t < 0 or sum(trainable) == sum(r.plan.stage.counts)
            continue
        if r.t >= method.readjust.exploration_end(r.plan.stage):
            assert trainable == r.plan.stage.counts
        else:
            assert all(n >= k for n, k in zip(trainable, r.plan.stage.counts, strict=True))


def test_the_run_ends_at_its_sparsity_to_the_weight(run: Any) -> None:
    experiment, rounds, summary = run
    last = rounds[-1].concluded
    asked = sum(sum(s.counts) for s in experiment.server.rules.stages)
    dense = experiment.info.config["allocation"]["_target_"].endswith(".Dense")
    assert asked == (last.alive.numel() if dense else round(0.5 * last.alive.numel()))
    if not keeps_density(experiment):
        pytest.skip("what is alive follows from a round's values")
    assert int(last.alive.sum()) == asked
    assert summary["alive"] == asked
    assert summary["sparsity"] == last.sparsity


def test_a_mask_that_clients_choose_moves_and_what_nobody_holds_is_dead(run: Any) -> None:
    experiment, rounds, _ = run
    setup, moved = experiment.setup, 0
    rule = setup.method.readjust
    choosing = [r for r in rounds if rule.own_masks(r.plan.stage, r.t) is not None]
    for r in choosing:
        form = setup.uplink(r.t)
        held = r.concluded.frozen.clone()
        for update in r.updates:
            held |= decode_uplink(update.payload, r.sent, update.client, r.t, form).at.bits
        assert not bool((r.concluded.alive & ~held).any())
        moved += int((r.concluded.alive != r.planned.alive).sum())
    assert not choosing or moved > 0


def test_only_trainable_weights_are_what_training_moves(run: Any) -> None:
    experiment, rounds, _ = run
    for r in rounds:
        if r.t < 0:
            continue
        if type(experiment.setup.method.readjust).after_round is Rule.after_round:
            assert torch.equal(r.concluded.alive, r.planned.alive)
        moved = r.planned.weights != r.concluded.weights
        assert not bool((moved & ~r.planned.trainable & r.concluded.frozen).any())
        assert int(moved.sum()) > 0


def test_no_update_is_refused_and_every_client_of_the_cohort_answers(run: Any) -> None:
    experiment, rounds, summary = run
    assert summary["rejected"] == 0
    for r in rounds:
        assert [u.client for u in r.updates] == [t.client for t in r.tasks] == list(r.plan.cohort)
        asked = [rule.cohort_size(r.t, 5, 3) for rule in experiment.setup.method if rule.warm_up >= -r.t]
        assert len(set(r.plan.cohort)) == (3 if r.t >= 0 else max(asked))
        samples = [experiment.setup.samples(k) for k in r.plan.cohort]
        assert [report.samples for report in r.record.reports] == samples


def test_every_client_gets_the_servers_model_whenever_it_was_last_here(run: Any) -> None:
    """Memories kept here by hand, from the bytes alone; positions and frozen weights come when lacked and only then."""
    experiment, rounds, _ = run
    setup, lossy = experiment.setup, not experiment.setup.codecs.values.exact
    memories = {k: Memory(setup.known) for k in range(setup.clients)}
    absent_in_a_move = 0
    for r in rounds:
        for task in r.tasks:
            before, memories[task.client] = (
                memories[task.client],
                remember(task.payload, memories[task.client], setup.layout, setup.codecs),
            )
            model, t, *_ = decode_downlink(
                task.payload, before, setup.layout, setup.codecs, setup.method.down(r.plan.stage, r.t)
            )
            assert t == r.t
            for name in ("values", "alive", "frozen"):
                assert torch.equal(getattr(model, name), getattr(r.sent, name))
                assert torch.equal(getattr(r.sent, name), getattr(r.planned, name)) or (lossy and name == "values")
            tags, after = unpack(task.payload).sections, memories[task.client]
            assert (Tag.FROZEN_VALUES in tags) == (after.frozen_values != before.frozen_values)
            assert (Tag.TRAINABLE_POSITIONS in tags) or after.trainable == before.trainable
            absent_in_a_move += before.trainable is not None and after.trainable != before.trainable
    assert absent_in_a_move > 0 or len({tuple(r.planned.trainable.tolist()) for r in rounds if r.tasks}) <= 2


def test_what_was_learned_is_better_than_chance(run: Any) -> None:
    _, _, summary = run
    assert summary["acc_global"] > 0.15
    assert 0 <= summary["ema_acc_global"] <= 1


def test_the_saved_models_are_those_of_the_last_round(run: Any) -> None:
    experiment, rounds, summary = run
    last, folder, used = rounds[-1].concluded, experiment.folder, experiment.setup.method.effective
    for name, model in (("model", last), ("model_ema", experiment.server.averaged_model)):
        saved = SavedModel.read(folder / f"{name}.safetensors")
        for entry, part in last.layout.split(used(model).values):
            assert torch.equal(saved.tensors[entry.name], part)
        for found, mask in ((saved.alive, last.alive), (saved.frozen, last.frozen)):
            for entry, part in last.layout.split(mask):
                assert torch.equal(found[entry.name], part)
    assert SavedModel.read(folder / "model.safetensors").digest() == summary["model_sha256"]
    assert json.loads((folder / "summary.json").read_text()) == summary
