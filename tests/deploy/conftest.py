"""What tests of deployed runs share. Nothing here needs flwr before a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment

CLIENTS = 3
OVERRIDES = (
    *("method=pffdst", "logger=csv", f"clients={CLIENTS}", f"cohort={CLIENTS}", "rounds=6", "local_epochs=1"),
    *("batch_size=32", "eval_every=100", "dataset.test_share=0.8", "checkpoint_every=1"),
)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, config_dir: Path) -> list[Path]:
    from pffdst.deploy.samples import write_samples

    return write_samples(compose(OVERRIDES, config_dir), tmp_path_factory.mktemp("samples"))


@pytest.fixture
def nodes(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from flwr.supercore.task_identity import TaskIdentity  # what Flower sets in an app's process

    from pffdst.deploy import session
    from tests.deploy.grid import Nodes

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    made = Nodes(tmp_path, files)
    with session.offered(made):
        yield made


@pytest.fixture
def experiment(tmp_path: Path, config_dir: Path) -> Callable[..., Experiment]:
    """A run of the same few rounds with these overrides, in a folder of this name."""

    def make(name: str, *overrides: str) -> Experiment:
        (tmp_path / name).mkdir(exist_ok=True)
        return build(compose([*OVERRIDES, *overrides], config_dir), tmp_path / name, "test")

    return make
