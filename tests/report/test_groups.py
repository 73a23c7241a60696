"""Runs that differ in the seed alone are one group, and any other difference makes two."""

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pffdst.config import schema
from pffdst.report import groups as module
from pffdst.report.groups import group_runs, keys_of
from pffdst.report.reading import Run

VALUES = st.sampled_from([None, True, 0, 1, 0.5, "a", "b"])
CONFIGS = st.lists(
    st.dictionaries(st.sampled_from(["method_name", "freeze", "sparsity", "lr", "seed"]), VALUES),
    min_size=1,
    max_size=12,
)


def runs_of(configs):
    return [Run(str(i), Path(), "done", config=config) for i, config in enumerate(configs)]


def essence(run):
    return {key: value for key, value in run.config.items() if key != "seed" and value is not None}


@given(CONFIGS)
def test_two_runs_share_a_group_exactly_when_they_differ_in_the_seed_alone(configs):
    runs = runs_of(configs)
    found = group_runs(runs, keys_of(runs))
    assert sum(len(group.runs) for group in found) == len(runs)
    place = {run.id: i for i, group in enumerate(found) for run in group.runs}
    for a, b in itertools.combinations(runs, 2):
        same = essence(a) == essence(b)
        assert (place[a.id] == place[b.id]) == same


@given(CONFIGS)
def test_no_two_groups_have_the_same_label(configs):
    runs = runs_of(configs)
    labels = [group.label for group in group_runs(runs, keys_of(runs))]
    assert len(labels) == len(set(labels))


@given(CONFIGS)
def test_no_chosen_key_could_be_left_out(configs):
    runs = runs_of(configs)
    keys = keys_of(runs)
    whole = len(group_runs(runs, keys))
    if keys.chosen:
        assert len(group_runs(runs, keys_of(runs, keys.chosen[:-1]))) < whole


def test_an_ablation_is_a_group_and_the_usual_goes_without_saying(groups):
    labels = [group.label for group in groups]
    assert labels[:5] == [
        "feddst · sparsity 0.9",
        "feddst · sparsity 0.95",
        "pffdst · freeze NoFreezing · sparsity 0.9",
        "pffdst · sparsity 0.9",
        "pffdst · sparsity 0.95",
    ]


def test_of_two_equally_common_settings_neither_goes_without_saying():
    configs = [{"method_name": "pffdst", "freeze": kind} for kind in ("A", "B")]
    runs = runs_of([*configs, {"method_name": "fedavg", "freeze": "A"}])
    labels = [group.label for group in group_runs(runs, keys_of(runs))]
    assert labels == ["fedavg", "pffdst · freeze A", "pffdst · freeze B"]


def test_options_are_called_by_their_own_names():
    configs = [("two_stage", "TwoStage"), ("none", "NoFreezing")]
    runs = [Run(name, Path(), "done", config={"freeze": kind}, choices={"freeze": name}) for name, kind in configs]
    assert [group.label for group in group_runs(runs, keys_of(runs))] == ["freeze none", "freeze two_stage"]


def test_an_option_s_name_that_stands_for_two_classes_is_not_used():
    runs = [Run(kind, Path(), "done", config={"codec": kind}, choices={"codec": "same"}) for kind in ("A", "B")]
    assert [group.label for group in group_runs(runs, keys_of(runs))] == ["codec A", "codec B"]


def test_keys_that_change_no_result_are_those_of_the_fingerprint():
    assert module.NEUTRAL - {"seed"} == schema.NEUTRAL


def test_keys_asked_for_are_used_as_they_are(shelf):
    runs = [run for run in shelf.runs if run.has_figures]
    found = group_runs(runs, keys_of(runs, ["sparsity"]))
    assert {"sparsity 0.9", "sparsity 0.95"} <= {group.label for group in found}
