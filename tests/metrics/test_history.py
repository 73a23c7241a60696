from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.metrics import names
from pffdst.metrics.history import History

shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


def rows_of(values):
    return [{names.ROUND: t + 1, names.ACC_GLOBAL: value} for t, value in enumerate(values)]


@settings(deadline=None, max_examples=40)
@given(shares)
def test_best_and_last_five_follow_the_values(values):
    history = History()
    for t, row in enumerate(rows_of(values)):
        extended = history.extended(row)
        assert extended[names.best_of(names.ACC_GLOBAL)] == max(values[: t + 1])
        assert extended[names.last5_of(names.ACC_GLOBAL)] == fmean(values[: t + 1][-5:])


@settings(deadline=None, max_examples=40)
@given(shares, st.integers(0, 30))
def test_a_restored_history_goes_on_as_one_never_stopped(values, cut):
    whole, first, second = History(), History(), History()
    rows = rows_of(values)
    expected = [whole.extended(row) for row in rows]
    got = [first.extended(row) for row in rows[:cut]]
    second.load_state_dict(first.state_dict())
    assert got + [second.extended(row) for row in rows[cut:]] == expected


def test_a_round_that_was_not_evaluated_is_left_as_it_was():
    history, row = History(), {names.ROUND: 1, names.TRAIN_LOSS: 0.5}
    history.extended({names.ROUND: 0, names.ACC_GLOBAL: 0.5})
    assert history.extended(row) == row


def test_the_row_given_is_not_written_into():
    row = {names.ROUND: 1, names.ACC_GLOBAL: 0.5}
    History().extended(row)
    assert row == {names.ROUND: 1, names.ACC_GLOBAL: 0.5}


def test_all_four_accuracies_are_followed():
    extended = History().extended(dict.fromkeys(names.ACCURACIES, 0.25))
    assert {name for name in extended if name.startswith(("best/", "last5/"))} == {
        *map(names.best_of, names.ACCURACIES),
        *map(names.last5_of, names.ACCURACIES),
    }


def test_the_state_survives_a_weights_only_checkpoint(tmp_path):
    history = History()
    history.extended({names.ACC_GLOBAL: 0.1, names.EMA_ACC_GLOBAL: 0.3})
    torch.save(history.state_dict(), tmp_path / "state")
    again = History()
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.state_dict() == history.state_dict()


def test_the_state_is_a_copy():
    history = History()
    history.extended({names.ACC_GLOBAL: 0.1})
    history.state_dict()[names.ACC_GLOBAL].append(1.0)
    assert history.best(names.ACC_GLOBAL) == 0.1


def test_an_unknown_name_is_named():
    with pytest.raises(KeyError, match=r"none yet.*'loss'"):
        History().best("loss")
