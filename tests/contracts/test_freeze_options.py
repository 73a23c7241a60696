"""What every option of configs/freeze must keep."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pffdst.core.facts import Facts
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.freeze.start import StartModel

OPTIONS = sorted((Path(__file__).resolve().parents[2] / "configs" / "freeze").glob("*.yaml"))


@pytest.fixture(scope="module", params=OPTIONS, ids=lambda path: path.stem)
def schedule(request: pytest.FixtureRequest) -> FreezeSchedule:
    made: FreezeSchedule = instantiate(OmegaConf.load(request.param))
    return made


@given(rounds=st.integers(1, 500), counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_stages_cover_every_round_once_and_give_out_every_weight_once(
    schedule: FreezeSchedule, rounds: int, counts: list[int]
) -> None:
    if schedule.problems(Facts(rounds=rounds)):
        return
    stages = schedule.stages(rounds, counts)
    assert [t for s in stages for t in range(s.start, s.stop)] == list(range(rounds))
    assert [s.index for s in stages] == list(range(len(stages)))
    assert all(s.length >= 1 for s in stages)
    assert [sum(column) for column in zip(*(s.counts for s in stages), strict=True)] == counts


def test_some_length_of_run_is_welcome(schedule: FreezeSchedule) -> None:
    assert schedule.problems(Facts(rounds=100)) == []
    assert isinstance(schedule.start_model(), StartModel)
    assert schedule.start_model() is not schedule.start_model(), "a run has its own"
