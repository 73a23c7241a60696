"""What the server takes of an update: bounds that change nothing where nothing is beyond them, and hold where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.config.overrides import preflight
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen
from pffdst.methods.aggregation import MaskedMean
from pffdst.methods.bounds import Bounds, Screen, largest_weight
from pffdst.methods.trimmed_mean import TrimmedMean
from pffdst.wire.frame import WireError
from pffdst.wire.uplink import Report, Upload

MakeModel = Callable[..., GlobalModel]


def upload_of(model: GlobalModel, client: int, samples: int = 10) -> Upload:
    report = Report(samples, 0.0, 0.0)
    return Upload(client, report, model.trainable_at, model.trained, model.values[32:39], model.values[39:])


def through(bounds: Bounds, sent: GlobalModel, uploads: Sequence[Upload]) -> tuple[list[Upload], Screen]:
    screen = Screen(bounds, sent)
    passed = [one for upload in uploads for one in screen.admit(upload)]
    return [*passed, *screen.release()], screen


def change(upload: Upload, sent: GlobalModel) -> float:
    """The 2-norm of what trains, the slow way."""
    assert upload.weights is not None
    assert upload.parameters is not None
    was, squares = dict(zip(sent.trainable_at.index.tolist(), sent.trained.tolist(), strict=True)), 0.0
    for place, value in zip(upload.at.index.tolist(), upload.weights.tolist(), strict=True):
        squares += (value - was.get(place, 0.0)) ** 2
    squares += sum((a - b) ** 2 for a, b in zip(upload.parameters.tolist(), sent.values[32:39].tolist(), strict=True))
    return float(squares**0.5)


# ---- nothing beyond ---------------------------------------------------------------------------------------------

WIDE = [
    Bounds(), Bounds(max_norm=1e6), Bounds(times_median=100.0), Bounds(max_samples=1000), Bounds(max_share=1.0),
    Bounds(max_norm=1e6, times_median=100.0, max_samples=1000, max_share=0.9),
]  # fmt: skip


@pytest.mark.parametrize("bounds", WIDE)
def test_with_nothing_beyond_them_updates_pass_as_the_very_objects(
    layout: Layout, make_model: MakeModel, bounds: Bounds
) -> None:
    """So that the mean is that without bounds, to the bit."""
    sent = make_model(layout, frozen=0.3)
    uploads = [upload_of(make_model(layout, 1 + k), k, 10 + k) for k in range(5)]
    passed, screen = through(bounds, sent, uploads)
    assert all(a is b for a, b in zip(passed, uploads, strict=True))
    assert (screen.clipped, screen.capped) == (0, 0)


def test_only_bounds_on_the_whole_round_make_updates_wait(layout: Layout, make_model: MakeModel) -> None:
    sent = make_model(layout)
    for bounds in WIDE:
        now = Screen(bounds, sent).admit(upload_of(make_model(layout, 1), 0))
        assert len(now) == (0 if bounds.times_median or bounds.max_share else 1)


# ---- norms ------------------------------------------------------------------------------------------------------


def test_a_norm_is_bounded_and_the_direction_stays(layout: Layout, make_model: MakeModel) -> None:
    """Over the places that the client holds, its own among them, and the parameters; statistics by the same factor."""
    sent, client = make_model(layout, alive=0.6, frozen=0.3), make_model(layout, 1, alive=0.5)
    own = sent.moved(sent.frozen_at.plus(client.alive_at.without(sent.frozen_at)))
    upload = upload_of(own.with_trained(torch.randn(len(own.trainable_at)), client.rest), 0)
    norm = change(upload, sent)
    [clipped], screen = through(Bounds(max_norm=norm / 4), sent, [upload])
    assert screen.clipped == 1
    assert change(clipped, sent) == pytest.approx(norm / 4, rel=1e-6)
    assert clipped.weights is not None
    assert upload.weights is not None
    base = sent.trainable_at.carry(sent.trained, upload.at)
    assert torch.allclose(clipped.weights - base, (upload.weights - base) / 4, atol=1e-6)
    for now, first, was in ((clipped.parameters, upload.parameters, sent.values[32:39]),
                            (clipped.statistics, upload.statistics, sent.values[39:])):  # fmt: skip
        assert now is not None
        assert first is not None
        assert torch.allclose(now - was, (first - was) / 4, atol=1e-6)


def test_the_median_of_the_rounds_norms_bounds_the_large_ones(layout: Layout, make_model: MakeModel) -> None:
    sent = make_model(layout, alive=1.0)
    steps = [1.0, 2.0, 3.0, 4.0, 1e12]
    uploads = [upload_of(sent.with_values(sent.values + s), k) for k, s in enumerate(steps)]
    passed, screen = through(Bounds(times_median=1.2), sent, uploads)
    norms = [change(u, sent) for u in passed]
    unit = 39**0.5
    assert norms == pytest.approx([unit, 2 * unit, 3 * unit, 3.6 * unit, 3.6 * unit], rel=1e-5)
    assert screen.clipped == 2
    both, _ = through(Bounds(times_median=1.2, max_norm=2.5 * unit), sent, uploads)
    assert change(both[-1], sent) == pytest.approx(2.5 * unit, rel=1e-5)


def test_updates_without_values_pass(layout: Layout, make_model: MakeModel) -> None:
    sent = make_model(layout)
    silent = Upload(0, Report(5, 0.0, 0.0), sent.trainable_at, None, None, None)
    for bounds in WIDE[:-1]:  # of one client alone no share below 1 can be kept
        assert through(bounds, sent, [silent])[0] == [silent]


# ---- samples ----------------------------------------------------------------------------------------------------


@given(samples=st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=12), share=st.floats(0.01, 1.0))
def test_no_client_weighs_more_than_its_share(samples: list[int], share: float) -> None:
    """Where that can be; else all weigh the same. The bound is the largest that holds."""
    most = largest_weight(samples, share)
    weights = [min(n, most) for n in samples]
    if most == 1:
        assert set(weights) == {1}
    else:
        assert max(weights) <= share * sum(weights)
    if most < max(samples):
        more = [min(n, most + 1) for n in samples]
        assert max(more) > share * sum(more)


def test_samples_are_not_trusted_beyond_the_bound(layout: Layout, make_model: MakeModel) -> None:
    sent = make_model(layout, alive=1.0)
    uploads = [upload_of(make_model(layout, 1 + k, alive=1.0), k, n) for k, n in enumerate([10, 20, 2**32 - 1])]
    passed, screen = through(Bounds(max_samples=20), sent, uploads)
    assert [u.report.samples for u in passed] == [10, 20, 20]
    assert screen.capped == 1
    shared, _ = through(Bounds(max_share=0.5), sent, uploads)
    assert [u.report.samples for u in shared] == [10, 20, 30]


# ---- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["weights", "parameters", "statistics", "signal", "chosen", "loss"])
@pytest.mark.parametrize("value", [1.1e15, -3.4e38])
def test_a_value_beyond_the_bound_is_refused_wherever_it_is(
    layout: Layout, make_model: MakeModel, where: str, value: float
) -> None:
    sent = make_model(layout)
    upload, bad = upload_of(make_model(layout, 1), 0), torch.tensor([0.0, value])
    changed: dict[str, Any] = {
        "signal": {"signals": {"g": bad}},
        "chosen": {"signals": {"g": Chosen(Positions(layout, index=torch.tensor([1, 2])), bad)}},
        "loss": {"report": Report(3, value, 0.0)},
    }
    wrong = replace(upload, **changed.get(where, {where: bad}))
    with pytest.raises(WireError, match=r"magnitude .* is beyond aggregation\.max_value=1e\+15"):
        Screen(Bounds(), sent).admit(wrong)
    assert Screen(Bounds(max_value=3.5e38), sent).admit(wrong) == [wrong]
    assert Screen(Bounds(max_value=None), sent).admit(wrong) == [wrong]


@pytest.mark.parametrize("bound", [bound.name for bound in fields(Bounds)])
@pytest.mark.parametrize("aggregation", ["masked_mean", "trimmed_mean", "median"])
def test_a_bound_that_is_null_is_no_bound(aggregation: str, bound: str) -> None:
    """As the page and the option's yaml say of every one of them."""
    configs = Path(__file__).resolve().parents[2] / "configs"
    preflight([f"aggregation={aggregation}", f"aggregation.{bound}=null"], configs)


@pytest.mark.parametrize("rule", [MaskedMean, TrimmedMean])
@pytest.mark.parametrize(
    "wrong", [{"max_value": 0.0}, {"max_samples": 0}, {"max_share": 1.5}, {"max_norm": -1.0}, {"times_median": 0}]
)
def test_bounds_that_are_none_are_refused_by_name(rule: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"aggregation.{next(iter(wrong))}"):
        rule(**wrong)
