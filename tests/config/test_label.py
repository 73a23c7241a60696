"""A run is called after its method and what makes it an ablation, whoever chose that."""

from __future__ import annotations

from pathlib import Path

import pytest

from pffdst.config.choices import Choices
from pffdst.config.compose import compose, session
from pffdst.config.identity import fingerprint
from pffdst.config.label import label_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("", "pffdst"),
        ("method=feddst", "feddst"),
        ("freeze=none", "pffdst freeze=none"),
        ("codec=int8", "pffdst codec=int8"),
        ("method=pffdst_lean", "pffdst_lean"),
        ("method=pffdst_lean codec=fp32", "pffdst_lean codec=fp32"),
        ("method=pffdst_paper freeze=none", "pffdst_paper freeze=none"),
        ("method=pffdst_paper freeze.start_from=best_test", "pffdst_paper"),
        ("readjust.schedule.interval=5", "pffdst readjust.schedule.interval=5"),
        ("readjust.schedule.interval=10", "pffdst"),
        ("readjust=static freeze=none", "pffdst readjust=static freeze=none"),
        ("experiment=debug", "pffdst"),
        ("experiment=lenet_cifar10_paper", "pffdst_paper"),
        ("engine=trainer dataset=mnist seed=3 lr=0.3", "pffdst"),
        ("label=mine freeze=none", "mine"),
    ],
)
def test_the_label_of_a_command_line(typed: str, label: str) -> None:
    assert compose(typed.split(), CONFIGS).label == label


def test_an_ablation_of_an_experiments_yaml_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /freeze: none\nreadjust:\n  schedule: {interval: 4}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with session(CONFIGS, searchpath=[f"file://{tmp_path}"]) as opened:
        by_experiment = opened.compose(["experiment=mine"]).cfg
        typed = opened.compose(["freeze=none", "readjust.schedule.interval=4"]).cfg
    assert by_experiment.label == "pffdst freeze=none"
    assert fingerprint(by_experiment) == fingerprint(typed), "a label changes no result"


def test_the_order_of_the_command_line_changes_no_label() -> None:
    one, two = (
        compose(line.split(), CONFIGS) for line in ("freeze=none readjust=static", "readjust=static freeze=none")
    )
    assert one.label == two.label


def test_without_what_hydra_knows_it_is_the_methods_name() -> None:
    assert label_of(compose(["freeze=none"], CONFIGS), Choices()) == "pffdst"


def test_the_name_follows_the_dataset() -> None:
    assert compose(["dataset=cifar10"], CONFIGS).name == "cifar10"
    assert compose(["dataset=cifar10", "dataset.name=mine"], CONFIGS).name == "mine"
    assert compose(["name=x"], CONFIGS).name == "x"


def test_a_runs_folder_says_method_and_sparsity() -> None:
    with session(CONFIGS) as opened:
        folder = opened.compose(["method=feddst", "sparsity=0.95"]).folder
    assert folder.name.endswith("_feddst_s0.95_digits")
