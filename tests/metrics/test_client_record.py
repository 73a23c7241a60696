"""clients.json: what the clients hold, and how the models do on each."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pffdst.metrics.clients import SHOWN, SORTED, ClientRecord, distribution, evenly_spaced
from pffdst.run import run
from pffdst.runs.files import CLIENTS


@given(st.integers(1, 10**7), st.integers(1, 500))
def test_evenly_spaced_numbers_are_few_different_and_from_end_to_end(count, most):
    found = evenly_spaced(count, most)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    assert found[0] == 0
    assert found[-1] == count - 1 or most == 1


def test_a_million_clients_take_no_more_than_a_few_hundred():
    asked = []

    def labels_of(client):
        asked.append(client)
        return np.array([client % 10, 3])

    record = ClientRecord.of(10**6, 10, labels_of)
    assert len(asked) == SHOWN
    text = record.text({"last": np.random.default_rng(0).random(10**6), "average": np.full(10**6, np.nan)})
    assert len(text) < 20_000
    found = json.loads(text)
    assert found["clients"] == 10**6
    assert found["accuracy"]["last"]["counted"] == 10**6
    assert found["accuracy"]["average"] == {"counted": 0, "sorted": []}


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=SORTED))
def test_few_accuracies_are_kept_each(values):
    found = distribution(np.array(values, dtype=np.float64))
    known = sorted(value for value in values if value == value)
    assert found["counted"] == len(known)
    assert found["sorted"] == pytest.approx(known, abs=1e-5)


@pytest.fixture(scope="module")
def finished(make_experiment):
    experiment = make_experiment("method=random_mask", "rounds=2", "eval_every=1")
    experiment.describe_clients()
    before = json.loads((experiment.folder / CLIENTS).read_text())
    summary = run(experiment)
    return experiment, before, summary


def test_a_run_tells_what_its_clients_hold_from_the_start(finished):
    experiment, before, _ = finished
    setup = experiment.setup
    assert before["clients"] == 5
    assert "accuracy" not in before
    labels = setup.data.labels
    for client, row in zip(before["shown"], before["train"], strict=True):
        own = setup.indices(client)
        assert row == np.bincount(labels[own].numpy(), minlength=10).tolist()


def test_at_the_end_the_mean_over_clients_is_that_of_the_summary(finished):
    experiment, before, summary = finished
    after = json.loads((experiment.folder / CLIENTS).read_text())
    assert before.items() <= after.items()
    for name, key in (("last", "acc_client_mean"), ("average", "ema_acc_client_mean")):
        assert np.mean(after["accuracy"][name]["sorted"]) == pytest.approx(summary[key], abs=1e-4)


def test_a_run_stopped_after_its_last_checkpoint_tells_the_same(finished):
    experiment, _, _ = finished
    text = (experiment.folder / CLIENTS).read_text()
    experiment.progress.scores = {}
    experiment.finish()
    assert (experiment.folder / CLIENTS).read_text() == text
