"""A finished model as a file: plain safetensors, small if the model is sparse, and how it becomes a torch module again.

A tensor without dead weights is stored under its own name, float32, in its own shape; a sparse weight as
`pffdst.models.packed` splits it.

The metadata's entry `pffdst` is JSON: `format`, `model` (its `_target_` and its arguments), `classes`, `class_names`
(if they are known), `seed` (of the run, used by the constructor), the kind of samples: `mean` and `std` (per channel,
of pixels / 255) and `shape` (C, H, W) of uint8 images, or `vocabulary`, `length`, `padding` and `typical` of texts,
`weights` (the shape of each maskable weight), `sparsity`, `fingerprint` (of the run's configuration: the beginning of
its sha256, as in summary.json) and, in a run's own file, `sha256` (of the same file without this item, checked when it
is read). docs/saved_models.md shows how to read such a file without this package. Equal models with equal
configurations give equal files: they contain nothing about the machine, folder or time.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import pkgutil
import typing
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pffdst.core.errors import UserError
from pffdst.core.flat import initialise
from pffdst.core.inputs import Inputs
from pffdst.core.model import GlobalModel
from pffdst.core.words import one_line
from pffdst.models.packed import KINDS, packed, unpacked
from pffdst.runs.files import MODEL, MODEL_AVERAGE

__all__ = ["Classifier", "ModelCard", "SavedModel", "load", "path_of"]

_FORMAT: Final = "pffdst model 1"
_METADATA: Final = "pffdst"
_SPARE: Final = 2**22  # values that a network may have besides its weights: buffers not in the state dict
_LARGE, _THINNEST = 2**26, 4096  # weights that any file may declare; beyond that, so many for each byte that it holds


@final
@dataclass(frozen=True)
class ModelCard:
    """What has to be known about a model besides its tensors.

    `target` is the class's import path and `arguments` are its constructor's; `inputs` describes its samples.
    `class_names` is empty if they are not known, `fingerprint` is that of the run's configuration. With the run's
    `seed` a constructor draws the same values again as for the run.
    """

    target: str
    arguments: Mapping[str, Any]
    classes: int
    inputs: Inputs
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    seed: int = 0

    def words(self) -> dict[str, Any]:
        """The card in plain values."""
        found = {
            "format": _FORMAT,
            "model": {"_target_": self.target, **self.arguments},
            "classes": self.classes,
            "class_names": list(self.class_names),
            **self.inputs.words(),
            "fingerprint": self.fingerprint,
            "seed": self.seed,
        }
        return {key: value for key, value in found.items() if value not in ("", [])}

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> ModelCard:
        """The card that `words` came from. KeyError, TypeError or ValueError if they are not in this format."""
        if words["format"] != _FORMAT:
            raise ValueError(f"its format is {words['format']!r}, but this version reads {_FORMAT!r}")
        arguments = dict(words["model"])
        return cls(
            target=str(arguments.pop("_target_")),
            arguments=arguments,
            classes=int(words["classes"]),
            inputs=Inputs.of_words(words),
            class_names=tuple(map(str, words.get("class_names", ()))),
            fingerprint=str(words.get("fingerprint", "")),
            seed=int(words.get("seed", 0)),
        )

    def name_of(self, label: int) -> str:
        """A class's name, or its number if it has none."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def network(self, most: int) -> nn.Module:
        """The network, with at most `most` weights, whose values are still meaningless.

        A file is only data: what it names is called only if it is a module class, or a function annotated to return
        one. UserError for anything else, and if it cannot be imported or built.
        """
        how = "give the network itself: pffdst.load(RUN, network=...)"
        try:
            target = pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{self.target} cannot be imported ({error}); put it on the path, or {how}") from error
        if not _makes_module(target):
            raise UserError(f"{self.target} is not a torch module class; {how}")
        size = self._size(target)
        if size > most:
            raise UserError(f"{self.target} would have {size:,} weights, more than its file can hold ({most:,}); {how}")
        try:
            return self._made(target)
        except Exception as error:
            raise UserError(f"{self.target} cannot be built from {dict(self.arguments)} ({error}); {how}") from error

    def _made(self, target: Any) -> nn.Module:
        return initialise(lambda: typing.cast("nn.Module", target(**self.arguments)), self.seed, self.inputs)

    def _size(self, target: Any) -> int:
        """How many values the network has, found without allocating them; 0 if it cannot be built that way."""
        try:
            with torch.device("meta"):
                made = self._made(target)
                return sum(tensor.numel() for tensor in (*made.parameters(), *made.buffers()))
        except Exception:  # reported when it is built
            return 0


# What a foreign file raises, wherever its parts do not fit together.
_NO_MODEL = (
    *(SafetensorError, OSError, zlib.error, LookupError, TypeError, ValueError),
    *(RuntimeError, AttributeError, ArithmeticError, MemoryError),
)


@final
@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model and its card. `tensors` are float32 by name; `alive` and `frozen` are bool, for maskable weights only."""

    card: ModelCard
    tensors: Mapping[str, Tensor]
    alive: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: GlobalModel, card: ModelCard, buffers: Sequence[Tensor] = ()) -> SavedModel:
        """The run's model as separate tensors, plus the layout's buffers."""
        tensors = {e.name: v.clone() for e, v in model.layout.split(model.values)}
        tensors |= {b.name: v.clone() for b, v in zip(model.layout.buffers, buffers, strict=True)}
        alive, frozen = ({e.name: v for e, v in model.layout.split(mask)} for mask in (model.alive, model.frozen))
        return cls(card, tensors, alive, frozen)

    @classmethod
    def read(cls, path: str | Path) -> SavedModel:
        """The model in a file. UserError if there is none, or it is damaged or in another format."""
        path = Path(path)
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: it is not a regular file")
        try:
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
                words = json.loads((file.metadata() or {})[_METADATA])
            if (noted := words.pop("sha256", None)) is not None and noted != _sha256(stored, words):
                raise ValueError("its content is not what was saved (sha256)")
            return _unpacked(ModelCard.of(words), stored, words["weights"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: there is no such file; name a finished run's folder, or its {MODEL}") from error
        except _NO_MODEL as error:
            why = one_line(error, 200)
            raise UserError(f"{path}: not a model saved by this program, or a damaged one: {why}") from error

    @property
    def sparsity(self) -> float:
        """1 - alive / W over the maskable weights."""
        alive = sum(int(mask.sum()) for mask in self.alive.values())
        return 1.0 - alive / (sum(mask.numel() for mask in self.alive.values()) or 1) if self.alive else 0.0

    def packed(self) -> bytes:
        """The file's content: sparse weights as their alive values and positions, everything else unchanged."""
        stored: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            alive = self.alive.get(name)
            stored |= packed(name, tensor, alive, self.frozen.get(name)) if alive is not None else {name: tensor}
        words = self._words()
        return _file(stored, words | {"sha256": _sha256(stored, words)})

    def plain(self) -> bytes:
        """All tensors whole under their own names, dead weights 0: `load_state_dict` accepts them directly."""
        return _file(self.tensors, self._words())

    def _words(self) -> dict[str, Any]:
        shapes = {name: list(mask.shape) for name, mask in self.alive.items()}
        return self.card.words() | {"weights": shapes, "sparsity": self.sparsity}

    def digest(self) -> str:
        """sha256 of the model's whole content: every tensor, `mask/NAME` and `frozen/NAME` as uint8, no metadata.

        Of a run's own file, it is the `model_sha256` of the summary. A plain file has no masks, so its digest differs.
        """
        masks = {f"mask/{name}": mask.to(torch.uint8) for name, mask in self.alive.items()}
        frozen = {f"frozen/{name}": mask.to(torch.uint8) for name, mask in self.frozen.items()}
        return hashlib.sha256(save({**self.tensors, **masks, **frozen})).hexdigest()

    def classifier(self, network: nn.Module | None = None) -> Classifier:
        """A module in evaluation mode with these weights, in `network` or in the one that the card names.

        UserError if the weights do not fit.
        """
        held = sum(tensor.numel() for tensor in self.tensors.values())
        made = self.card.network(2 * held + _SPARE) if network is None else network
        try:
            given = OrderedDict(self.tensors)
            if versions := getattr(made.state_dict(), "_metadata", None):  # some layers need them
                given._metadata = versions  # type: ignore[attr-defined]
            _write(made, self.tensors, *made.load_state_dict(given, strict=False))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the weights do not fit {type(made).__name__}: {one_line(error)}") from error
        dtype = next(t.dtype for t in self.tensors.values() if t.is_floating_point())
        front = self.card.inputs.front(dtype, torch.contiguous_format, "cpu")
        return Classifier(front, made, self.card).eval()

    @torch.no_grad()
    def tried(self) -> Classifier:
        """The classifier, tried on two samples. UserError if its output is not what its card says."""
        made, card = self.classifier(), self.card
        told: object
        try:
            told = tuple(made(card.inputs.raw(2)).shape)
        except Exception as error:  # whatever a network raises on samples of the wrong kind
            told = one_line(error, 200)
        if told != (2, card.classes):
            shape = "x".join(map(str, card.inputs.shape))
            raise UserError(
                f"{card.target} does not return {card.classes} class scores for {card.inputs.noun} of {shape}, as its "
                f"file says: {told}"
            )
        return made


@final
class Classifier(nn.Module):
    """Complete with preprocessing: uint8 images [B, C, H, W], or token ids [B, L], to logits [B, classes].

    `card` holds everything else.
    """

    def __init__(self, front: nn.Module, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.front = front
        self.network = network
        self.card = card

    def forward(self, samples: Tensor) -> Tensor:
        """Logits float32 [B, classes] of raw samples."""
        return self.network(self.front(samples))  # type: ignore[no-any-return]


def load(run: str | Path, *, average: bool = False, network: nn.Module | None = None) -> Classifier:
    """The model of a finished run, ready to use: `pffdst.load("logs/runs/DATE/RUN")(images)` gives logits.

    `run` is the run's folder or a model file; `average` chooses the server average instead of the last model. `network`
    is needed if the model's class cannot be imported here. Images are uint8 [B, C, H, W]; texts are token ids [B, L],
    as the run's tokenizer.json produces them.

    Raises:
        UserError: there is no such model, it is damaged, or its network cannot be built.
    """
    return SavedModel.read(path_of(run, average=average)).classifier(network)


def path_of(run: str | Path, *, average: bool = False) -> Path:
    """The model's file in a run's folder; a file is returned unchanged. UserError for another file than the average."""
    path = Path(run)
    if average and path.is_file() and path.name != MODEL_AVERAGE:
        raise UserError(f"{path}: the server average is another file; name the run's folder, or its {MODEL_AVERAGE}")
    return path if path.is_file() else path / (MODEL_AVERAGE if average else MODEL)


@torch.no_grad()
def _write(network: nn.Module, tensors: Mapping[str, Tensor], missing: Sequence[str], more: Sequence[str]) -> None:
    """Writes the values as they are, also outside the state dict: hooks may change what a network loads, and a run
    asks none. ValueError if loading found tensors `missing`, or `more` that the network does not have.

    Other names of the same tensor need not be present, nor do the counters of normalisation layers.
    """
    buffers = dict(network.named_buffers())
    own = {**dict(network.named_parameters()), **buffers}
    absent = [name for name in missing if name in own and not name.endswith("num_batches_tracked")]
    unknown = [name for name in more if name not in buffers or buffers[name].shape != tensors[name].shape]
    if absent or unknown:
        raise ValueError(f"missing: {', '.join(absent) or 'none'}; unknown: {', '.join(unknown) or 'none'}")
    for name in own.keys() & tensors.keys():
        own[name].copy_(tensors[name])


def _file(stored: Mapping[str, Tensor], words: Mapping[str, Any]) -> bytes:
    """With one entry of metadata: safetensors writes several in a different order each time."""
    return bytes(save(dict(stored), {_METADATA: json.dumps(words)}))


def _sha256(stored: Mapping[str, Tensor], words: Mapping[str, Any]) -> str:
    return hashlib.sha256(_file(stored, words)).hexdigest()


def _makes_module(target: Any) -> bool:
    if inspect.isclass(target):
        return issubclass(target, nn.Module)
    try:
        made = typing.get_type_hints(target).get("return")
    except Exception:  # annotations that cannot be evaluated tell us nothing
        return False
    return inspect.isclass(made) and issubclass(made, nn.Module)


def _check_shapes(stored: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """ValueError for weights that the file does not hold, before memory is allocated for them."""
    held = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    size = sum(abs(math.prod(shape)) for shape in shapes.values())
    if size > max(_LARGE, _THINNEST * held):
        raise ValueError(f"it declares {size:,} weights, but holds only {held:,} bytes")
    absent = [name for name in shapes if name not in stored and f"values/{name}" not in stored]
    other = [name for name, shape in shapes.items() if name in stored and list(stored[name].shape) != list(shape)]
    if absent or other:
        raise ValueError(f"missing weights: {', '.join(absent) or 'none'}; with another shape: {other}")


def _unpacked(card: ModelCard, stored: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> SavedModel:
    _check_shapes(stored, shapes)
    packed = {kind + name for name in shapes for kind in KINDS}
    tensors = {name: tensor for name, tensor in stored.items() if name not in packed}
    alive: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        tensors[name], alive[name], frozen[name] = unpacked(stored, name, shape)
    if not any(tensor.is_floating_point() for tensor in tensors.values()):
        raise ValueError("it has no floating-point weights")
    return SavedModel(card, tensors, alive, frozen)
