"""What nodes tell before a run, where they may, and a run whose server has no training image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

from flwr.app import ConfigRecord, RecordDict

from pffdst.build import build, parts
from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.config.overrides import preflight
from pffdst.core.errors import UserError
from pffdst.data.dataset import channel_statistics
from pffdst.deploy.records import BadRecord
from pffdst.deploy.survey import DECLINED, Ask, survey, told_of
from pffdst.experiment import Experiment
from pffdst.run import run
from tests.deploy.conftest import OVERRIDES
from tests.deploy.grid import Nodes

Make = Callable[..., Experiment]
QUICK = ("engine=flower", "engine.deadline=0.3", "engine.patience=0.2", "engine.gather=0", "engine.poll=0.01")


def held_out(folder: Path, config_dir: Path) -> Path:
    """The test images of the simulation as a parquet file."""
    images = parts(compose(OVERRIDES, config_dir)).dataset.test
    rows: list[bytes] = []
    for image in images.columns()["images"].numpy():
        buffer = io.BytesIO()
        Image.fromarray(image[0]).save(buffer, "png")
        rows.append(buffer.getvalue())
    pq.write_table(pa.table({"image": rows, "label": images.labels.tolist()}), folder / "test.parquet")
    return folder / "test.parquet"


def settings(nodes: Nodes, folder: Path, tests: Path) -> list[str]:
    told = survey(nodes, Ask(3, str(folder / "counts.csv"), wait=20))
    return [*told, f"dataset.path={tests}", f"paths.cache={folder / 'cache'}"]


def test_what_is_told_is_what_the_clients_have(nodes: Nodes, tmp_path: Path, config_dir: Path) -> None:
    told = dict(line.split("=", 1) for line in survey(nodes, Ask(3, str(tmp_path / "counts.csv"), wait=20)))
    made = parts(compose(OVERRIDES, config_dir))
    labels = made.dataset.train.labels
    table = [labels[made.shares.train(k)].bincount(minlength=10) for k in range(3)]
    with (tmp_path / "counts.csv").open(newline="") as file:
        found = {(int(r["client"]), int(r["class"])): int(r["samples"]) for r in csv.DictReader(file)}
    assert found == {(k, c): int(n) for k, row in enumerate(table) for c, n in enumerate(row) if n}
    mean, std = channel_statistics(made.dataset.train.columns()["images"])
    for key, real in (("mean", mean), ("std", std)):
        assert float(told[f"dataset.{key}"].strip("[]")) == pytest.approx(real[0], rel=1e-5)


def test_a_server_without_training_images_makes_the_simulated_model(
    nodes: Nodes, tmp_path: Path, config_dir: Path, experiment: Make
) -> None:
    told = settings(nodes, tmp_path, held_out(tmp_path, config_dir))
    check(compose(told, config_dir))  # what is printed is complete
    (tmp_path / "deployed").mkdir()
    kept = [line for line in OVERRIDES if not line.startswith("dataset.")]
    deployed = run(build(compose([*kept, *told, *QUICK], config_dir), tmp_path / "deployed", "test"))
    statistics = [line for line in told if line.startswith(("dataset.mean", "dataset.std"))]
    simulated = run(experiment("simulated", "engine.workers=0", *statistics))
    for key in ("model_sha256", "bytes_up", "bytes_down", "flops", "acc_global"):
        assert deployed[key] == simulated[key], key
    assert deployed["rejected"] == 0


def test_a_node_tells_nothing_that_its_operator_did_not_allow(nodes: Nodes, tmp_path: Path) -> None:
    nodes.telling.discard(1)
    with pytest.raises(UserError) as caught:
        survey(nodes, Ask(4, str(tmp_path / "counts.csv"), wait=3))
    assert f"client 1: {DECLINED}" in str(caught.value)
    assert "client 3: no answer" in str(caught.value)
    assert "client 0" not in str(caught.value)
    assert not (tmp_path / "counts.csv").exists()


GOOD: dict[str, Any] = {
    "format": 1,
    "problem": "",
    "names": ["a", "b"],
    "counts": [3, 1],
    "shape": [1, 2, 2],
    "sums": [160],
    "squares": [4000],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": [3]},
        {"counts": [3, -1]},
        {"counts": [0, 0]},
        {"names": ["a", "a"]},
        {"names": "ab"},
        {"shape": [2, 2]},
        {"shape": [], "sums": [], "squares": []},
        {"shape": [2, 2, 2]},
        {"sums": [10**9]},
        {"squares": [0]},
        {"squares": [10**6]},
        {"sums": [1.5]},
        {"format": 2},
    ],
)
def test_what_cannot_be_is_not_believed(wrong: dict[str, Any]) -> None:
    def answer(record: dict[str, Any]) -> Any:
        return SimpleNamespace(has_error=lambda: False, content=RecordDict({"told": ConfigRecord(record)}))

    assert told_of(answer(GOOD)).counts == {"a": 3, "b": 1}
    with pytest.raises(BadRecord):
        told_of(answer(GOOD | wrong))


def test_what_such_data_cannot_do_is_told_before_any_work(tmp_path: Path, config_dir: Path) -> None:
    (tmp_path / "counts.csv").write_text("client,class,samples\n0,cat,3\n1,dog,2\n")
    given = ["dataset=counted", f"dataset.path={tmp_path}", f"dataset.counts={tmp_path / 'counts.csv'}"]
    with pytest.raises(ConfigError) as caught:
        preflight([*given, "validation_share=0.2", "clients=3", "cohort=2"], config_dir)
    text = str(caught.value)
    for part in (
        "write engine=flower, or another dataset",
        "write partition=column partition.column=client",
        "write validation_share=0",
        "has 2 clients: write clients=2",
        "dataset.mean must describe the clients' images",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("client,class,samples\n0,cat,3\n2,dog,2\n", "client 1 has no samples"),
        ("client,class,samples\n0,cat,3\n0,cat,2\n", "line 3: client 0 and class cat are already listed"),
        ("client,class,samples\n0,cat,-3\n", "line 2: expected client,class,samples"),
        ("client;class;samples\n0;cat;3\n", "line 2: expected client,class,samples"),
        ("", "but got 0 clients"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, config_dir: Path, text: str, said: str) -> None:
    (tmp_path / "counts.csv").write_text(text)
    given = ["dataset=counted", f"dataset.path={tmp_path}", f"dataset.counts={tmp_path / 'counts.csv'}"]
    with pytest.raises(ConfigError) as caught:
        preflight(given, config_dir)
    assert said in str(caught.value)


def test_the_images_that_stand_in_take_no_memory(tmp_path: Path) -> None:
    from pffdst.data.sources.counted import _Counts
    from pffdst.measure.memory import PeakMemory

    (tmp_path / "counts.csv").write_text("client,class,samples\n0,cat,300000\n1,dog,200000\n")
    counts = _Counts.read(tmp_path / "counts.csv")
    before = PeakMemory()
    before.sample()
    found = counts.stand_in(("cat", "dog"), (3, 64, 64))
    after = PeakMemory()
    after.sample()
    assert found.images.numel() > 6 * 10**9
    assert after.mb - before.mb < 100
    assert np.array_equal(found.labels.bincount().numpy(), [300000, 200000])
    assert found.digest == counts.stand_in(("cat", "dog"), (3, 64, 64)).digest
