"""A run's folder that anybody may have made, given to evaluate, export, load and resume: named in one line."""

from __future__ import annotations

import json
import os
import resource
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pffdst import load
from pffdst.cli.evaluate import main as evaluate
from pffdst.cli.export import FORMATS, export
from pffdst.cli.export import main as export_main
from pffdst.config.check import ConfigError
from pffdst.config.overrides import preflight
from pffdst.core.errors import UserError
from pffdst.models.cnn import SmallCNN
from pffdst.models.saved import SavedModel
from pffdst.runs import checkpoint
from pffdst.runs.checkpoint import CheckpointError

SHIPPED = Path(__file__).resolve().parents[2] / "configs"
CARD = {
    "format": "pffdst model 1",
    "model": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 2},
    "classes": 2,
    "shape": [1, 2, 2],
    "mean": [0.5],
    "std": [0.5],
}
VALUES = {"weight": torch.ones(2, 4), "bias": torch.ones(2)}


def write(path: Path, tensors: dict[str, torch.Tensor], weights: Any, **card: Any) -> None:
    save_file(tensors, path, {"pffdst": json.dumps(CARD | {"weights": weights} | card)})


def within(work: Callable[[], object], seconds: float = 20) -> BaseException:
    """What the work raises; a hang must not hang the tests."""
    found: list[BaseException] = []

    def told() -> None:
        try:
            work()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=told, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "nothing was raised, or it hangs"
    return found[0]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def list_of_weights(path: Path) -> None:
    write(path, VALUES, [1, 2])


def too_large_a_weight(path: Path) -> None:
    write(path, VALUES, {"weight": [10**400]})


def places_beyond(path: Path) -> None:
    codes = torch.frombuffer(bytearray(zlib.compress(bytes([254] * 8))), dtype=torch.uint8)
    write(path, {"bias": VALUES["bias"], "values/weight": torch.ones(8), "alive/weight": codes}, {"weight": [2, 4]})


def whole_numbers(path: Path) -> None:
    write(path, {name: value.long() for name, value in VALUES.items()}, {})


def a_terabyte(path: Path) -> None:
    write(path, VALUES, {})
    os.truncate(path, 2**40)


def weights_of_no_bytes(path: Path) -> None:
    write(path, VALUES, {"weight": [40_000, 40_000]})


def places_of_no_bytes(path: Path) -> None:
    codes = torch.frombuffer(bytearray(zlib.compress(bytes([255]) * 10**7)), dtype=torch.uint8)
    write(path, {"values/weight": torch.ones(0), "alive/weight": codes}, {"weight": [40_000, 60_000]})


def weights_that_cancel(path: Path) -> None:
    write(path, VALUES, {"a": [-(10**10)], "b": [10**10]})


def images_of_no_bytes(path: Path) -> None:
    write(path, VALUES, {}, shape=[1, 10**6, 10**6])


def a_mean_beyond_numbers(path: Path) -> None:
    write(path, VALUES, {}, mean=[10**400])


MODELS = [
    *(pipe, device, list_of_weights, too_large_a_weight, places_beyond, whole_numbers, a_terabyte),
    *(weights_of_no_bytes, places_of_no_bytes, weights_that_cancel, images_of_no_bytes, a_mean_beyond_numbers),
]


@pytest.mark.parametrize("make", MODELS)
def test_a_hostile_model_is_named_in_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model.safetensors")
    told = within(lambda: load(tmp_path))
    assert isinstance(told, UserError)
    why = (
        "it is not a regular file"
        if make in (pipe, device)
        else "not a model saved by this program, or a damaged one: "
    )
    assert str(told).startswith(f"{tmp_path}/model.safetensors: {why}")
    assert "\n" not in str(told)


@pytest.mark.parametrize("sides", [(30_000, 30_000), (10**9, 10**9)])
def test_a_network_larger_than_its_file_is_never_made(tmp_path: Path, sides: tuple[int, int]) -> None:
    model = {"_target_": "torch.nn.Linear", "in_features": sides[0], "out_features": sides[1]}
    write(tmp_path / "model.safetensors", VALUES, {}, model=model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"would have {sides[1] * (sides[0] + 1):,} weights" in str(within(lambda: load(tmp_path)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # kB: 900 million weights are 3.6 GB


def described(folder: Path) -> None:
    """A config.yaml that names the digits."""
    node = yaml.safe_load((SHIPPED / "dataset/digits.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": node, "seed": 1}))


def test_data_without_their_settings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "model.safetensors", VALUES, {})
    (tmp_path / "config.yaml").write_text("{dataset: {_target_: pffdst.data.sources.digits.DigitsSource}, seed: 1}\n")
    assert evaluate([str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "choose one, e.g. dataset=digits" in told


HOSTILE_WORDS = ["[/x]", "\x1b]0;owned\x07", "[red]r[/red]", "\u202egnp", "a\nb", ["a list"]]


def test_words_of_a_model_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"_target_": "pffdst.models.cnn.SmallCNN", "channels": 1, "size": 8, "classes": 10}
    network = SmallCNN(channels=1, size=8, classes=10)
    card = {"model": model, "classes": 10, "shape": [1, 8, 8], "class_names": HOSTILE_WORDS}
    write(tmp_path / "model.safetensors", network.state_dict(), {}, **card)
    described(tmp_path)
    assert evaluate([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert all(
        word in told for word in ("[/x]", "\\x1b]0;owned\\x07", "[red]r[/red]", "\\u202egnp", "a\\nb", "['a list']")
    )


@pytest.mark.parametrize("call", [evaluate, lambda words: export_main([*words, "--to", "pt2"])])
@pytest.mark.parametrize("target", ["torch.nn.Linear", "\x1b[2Jno.such"])
def test_a_network_that_is_not_what_its_file_says_is_one_line(
    tmp_path: Path, call: Callable[[list[str]], int], target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"_target_": target, "in_features": 4, "out_features": 2}
    write(tmp_path / "model.safetensors", VALUES, {}, model=model, classes=10, shape=[1, 8, 8])
    described(tmp_path)
    assert call([str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "\x1b" not in told
    assert told.startswith(
        "torch.nn.Linear does not return 10 class scores" if "torch" in target else "\\x1b[2Jno.such cannot"
    )


def test_a_good_model_is_loaded(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", VALUES, {})
    assert SavedModel.read(tmp_path / "model.safetensors").sparsity == 0.0


@pytest.mark.parametrize("make", [pipe, device])
def test_a_checkpoint_that_is_no_file_is_passed_over(tmp_path: Path, make: Callable[[Path], None]) -> None:
    checkpoint.save(tmp_path, {"t": 1})
    (tmp_path / "last.ckpt").rename(tmp_path / "previous.ckpt")
    make(tmp_path / "last.ckpt")
    assert isinstance(within(lambda: checkpoint.load(tmp_path / "last.ckpt")), CheckpointError)
    assert checkpoint.latest(tmp_path) == ({"t": 1}, tmp_path / "previous.ckpt")
    checkpoint.save(tmp_path, {"t": 2})
    assert checkpoint.load(tmp_path / "last.ckpt") == {"t": 2}


def test_a_checkpoint_with_a_terabyte_of_nothing_is_not_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"t": 1})
    os.truncate(tmp_path / "last.ckpt", 2**40)
    assert "truncated" in str(within(lambda: checkpoint.load(tmp_path / "last.ckpt"), seconds=5))
    checkpoint.save(tmp_path, {"t": 2})  # does not sum it up either


@pytest.mark.parametrize("to", ["plain", "sparse"])
def test_an_export_does_not_write_through_a_link(tmp_path: Path, to: str) -> None:
    letter, run = tmp_path / "letter.txt", tmp_path / "run"
    letter.write_text("dear all")
    run.mkdir()
    write(run / "model.safetensors", VALUES, {})
    path = run / f"model{FORMATS[to][0]}"
    path.symlink_to(letter)
    export(SavedModel.read(run / "model.safetensors"), to, path)
    assert not path.is_symlink()
    assert path.is_file()
    assert letter.read_text() == "dear all"


@pytest.mark.parametrize("name", [".hydra/config.yaml", ".hydra/hydra.yaml", "train.log", "run.lock", "checkpoints"])
def test_a_folder_that_is_resumed_is_not_written_through_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "letter").write_text("dear all")
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("- lr=0.1\n")
    (folder / name).symlink_to(tmp_path / "letter")
    with pytest.raises(ConfigError) as caught:
        preflight([f"resume={folder}"], SHIPPED)
    assert [line.partition(": ")[0] for line in caught.value.problems] == [f"{folder}/{name}"]


@pytest.mark.parametrize(
    "text", ["- a\n", "seed: 1\n", "{dataset: {}, seed: 1}\n", "{dataset: {_target_: a}, seed: x}\n"]
)
def test_a_config_that_tells_no_data_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "model.safetensors", VALUES, {})
    (tmp_path / "config.yaml").write_text(text)
    assert evaluate([str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "does not describe the data: it has no valid" in told
