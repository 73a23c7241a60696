"""A model's file: small, whole, the same for the same model, and data that runs nothing."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

import pffdst
from pffdst.core.errors import UserError
from pffdst.core.flat import FlatModule, initialise
from pffdst.core.inputs import ImageInputs
from pffdst.core.model import GlobalModel
from pffdst.core.seeding import generator_for
from pffdst.models.cnn import SmallCNN
from pffdst.models.resnet import ResNet18
from pffdst.models.saved import ModelCard, SavedModel

CARD = ModelCard(
    target="pffdst.models.cnn.SmallCNN",
    arguments={"channels": 1, "size": 8, "classes": 10},
    classes=10,
    inputs=ImageInputs((1, 8, 8), (0.3053,), (0.3764,)),
    class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    fingerprint="0123456789abcdef",
)


def made(network: nn.Module, alive: float, frozen: float = 0.5, seed: int = 0) -> GlobalModel:
    """A model with a share of its weights alive and, of these, a share frozen."""
    flat, generator = FlatModule(network), generator_for(seed, "test")
    size = flat.layout.maskable
    m = torch.rand(size, generator=generator) < alive
    z = m & (torch.rand(size, generator=generator) < frozen)
    return GlobalModel(flat.layout, flat.read(), torch.ones_like(m), torch.zeros_like(m)).with_masks(m, z)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return initialise(lambda: SmallCNN(1, 8, 10), 0)


def written(folder: Path, model: GlobalModel, card: ModelCard = CARD) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(SavedModel.of(model, card).packed())
    return path


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_file_with_one_flipped_bit_is_refused(
    place: float, bit: int, network: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("flipped"), made(network, 0.3))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        SavedModel.read(path)


def test_a_file_from_before_the_checksum_is_read(network: nn.Module, tmp_path: Path) -> None:
    saved = SavedModel.read(written(tmp_path, made(network, 0.3)))
    (tmp_path / "older").write_bytes(saved.plain())  # a plain file has none, so that others can write one like it
    older = SavedModel.read(tmp_path / "older")
    assert all(torch.equal(older.tensors[name], tensor) for name, tensor in saved.tensors.items())


@settings(max_examples=30, deadline=None)
@given(
    alive=st.sampled_from([0.0, 0.001, 0.02, 0.5, 0.999, 1.0]),
    frozen=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_what_was_written_is_read(
    alive: float, frozen: float, seed: int, tmp_path_factory: Any, network: nn.Module
) -> None:
    model = made(network, alive, frozen, seed)
    read = SavedModel.read(written(tmp_path_factory.mktemp("model"), model))
    for entry, values in model.layout.split(model.values):
        assert torch.equal(read.tensors[entry.name], values)
    for found, mask in ((read.alive, model.alive), (read.frozen, model.frozen)):
        for entry, part in model.layout.split(mask):
            assert torch.equal(found[entry.name], part)
    assert read.card == CARD
    assert read.sparsity == pytest.approx(model.sparsity, abs=1e-12)


def test_the_digest_is_that_of_the_whole_content_however_it_is_packed(network: nn.Module, tmp_path: Path) -> None:
    model = made(network, 0.2)
    tensors = {e.name: v.clone() for e, v in model.layout.split(model.values)}
    for prefix, mask in (("mask", model.alive), ("frozen", model.frozen)):
        tensors |= {f"{prefix}/{e.name}": v.to(torch.uint8) for e, v in model.layout.split(mask)}
    expected = hashlib.sha256(save(tensors)).hexdigest()
    assert SavedModel.of(model, CARD).digest() == expected
    assert SavedModel.read(written(tmp_path, model)).digest() == expected
    assert SavedModel.read(str(tmp_path / "model.safetensors")).digest() == expected  # a name, as pffdst.load takes it
    other = model.with_values(model.values + 1e-6 * (model.values != 0))
    assert SavedModel.of(other, CARD).digest() != expected


def test_equal_models_are_equal_files(network: nn.Module) -> None:
    files = {SavedModel.of(made(network, 0.2), replace(CARD)).packed() for _ in range(5)}
    assert len(files) == 1


@pytest.mark.parametrize("density", [0.5, 0.2, 0.05, 0.02])
def test_a_file_is_no_larger_than_alive_values_and_the_entropy_of_their_places(density: float) -> None:
    """Within 1 % and 20 kB (the header's names, 62 layers) of what no coding can undercut."""
    resnet = initialise(lambda: ResNet18(3, 32, 10, width=16), 0)
    model = made(resnet, density, frozen=0.0)
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density)) / 8
    dense = model.layout.total - model.layout.maskable
    least = 4 * int(model.alive.sum()) + entropy * model.layout.maskable + 4 * dense
    size = len(SavedModel.of(model, CARD).packed())
    assert size <= 1.01 * least + 20_000
    assert size < len(SavedModel.of(model, CARD).plain())


def test_a_dense_model_is_plain(network: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = made(network, 1.0, frozen=0.0)
    assert network.load_state_dict(load_file(written(tmp_path, model))).missing_keys == []
    own, plain = load(SavedModel.of(model, CARD).packed()), load(SavedModel.of(model, CARD).plain())
    assert own.keys() == plain.keys()
    assert all(torch.equal(own[name], plain[name]) for name in own)


def test_load_gives_normalisation_and_network_in_one(network: nn.Module, tmp_path: Path) -> None:
    model = made(network, 0.2)
    FlatModule(network).write_(model.values)
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=generator_for(0, "test"), dtype=torch.uint8)
    expected = network.eval()((images.float() / 255 - 0.3053) / 0.3764)
    written(tmp_path, model)
    classifier = pffdst.load(tmp_path)
    assert not classifier.training
    assert torch.allclose(classifier(images), expected, atol=1e-6)
    assert [classifier.card.name_of(label) for label in (0, 9, 10)] == ["zero", "nine", "10"]


def test_batch_normalisation_comes_back(tmp_path: Path) -> None:
    resnet = initialise(lambda: ResNet18(1, 8, 10, width=8), 0)
    with torch.no_grad():
        resnet.bn1.running_mean += 1
    arguments = {"channels": 1, "size": 8, "classes": 10, "width": 8}
    card = replace(CARD, target="pffdst.models.resnet.ResNet18", arguments=arguments)
    loaded = pffdst.load(written(tmp_path, made(resnet, 1.0), card)).network
    assert torch.equal(loaded.bn1.running_mean, resnet.bn1.running_mean)


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        ("os.system", {"command": "touch {folder}/ran"}, "is not a torch module class"),
        ("pathlib.Path", {}, "is not a torch module class"),
        ("nowhere.Net", {}, "cannot be imported"),
        ("pffdst.models.cnn.SmallCNN", {"channels": 1}, "cannot be built"),
        ("pffdst.models.cnn.SmallCNN", {"channels": 3, "size": 8, "classes": 10}, "do not fit SmallCNN"),
    ],
)
def test_a_file_that_names_something_else_runs_nothing(
    network: nn.Module, tmp_path: Path, target: str, arguments: dict[str, Any], words: str
) -> None:
    filled = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in arguments.items()}
    path = written(tmp_path, made(network, 0.2), replace(CARD, target=target, arguments=filled))
    with pytest.raises(UserError, match=words):
        pffdst.load(path)
    assert not (tmp_path / "ran").exists()


def test_a_network_of_ones_own_takes_the_weights(network: nn.Module, tmp_path: Path) -> None:
    path = written(tmp_path, made(network, 0.2), replace(CARD, target="nowhere.Net"))
    own = SmallCNN(1, 8, 10)
    assert pffdst.load(path, network=own).network is own


class OwnWays(nn.Module):
    """Names that look like the file's own, and loading that changes what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("values/x", nn.Linear(64, 10))
        self.add_module("alive/x", nn.Linear(10, 10))
        self._register_load_state_dict_pre_hook(self._halve)

    def _halve(self, state: dict[str, Tensor], *_: object) -> None:
        state["alive/x.weight"] = state["alive/x.weight"] / 2

    def state_dict(self, *_: object, **__: object) -> dict[str, Tensor]:  # type: ignore[override]
        return {}

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, "alive/x")(getattr(self, "values/x")(x.flatten(1)))


def test_a_model_comes_back_as_the_run_had_it_whatever_its_names_and_hooks(tmp_path: Path) -> None:
    own = initialise(OwnWays, 0)
    model = made(own, 0.2)
    found = pffdst.load(written(tmp_path, model, replace(CARD, target=f"{__name__}.OwnWays", arguments={})))
    assert torch.equal(FlatModule(found.network, model.layout).read(), model.values)


def test_a_function_that_says_it_makes_a_module_is_called(network: nn.Module) -> None:
    card = replace(CARD, target="torchvision.models.resnet18", arguments={"num_classes": 3})
    assert card.network(10**8).fc.out_features == 3


@pytest.mark.parametrize("damage", ["absent", "cut", "text", "foreign", "long"])
def test_what_is_no_model_is_one_message(damage: str, network: nn.Module, tmp_path: Path) -> None:
    path = written(tmp_path, made(network, 0.2))
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "text":
        path.write_text("no model")
    elif damage == "foreign":
        path.write_bytes(save({"weight": torch.zeros(3)}))
    else:  # a mask that unpacks to more than its weight
        import zlib

        packed = torch.frombuffer(bytearray(zlib.compress(bytes(10**6))), dtype=torch.uint8)
        words = json.dumps(CARD.words() | {"weights": {"w": [2, 2]}})
        path.write_bytes(save({"values/w": torch.zeros(1), "alive/w": packed}, {"pffdst": words}))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        pffdst.load(path)
