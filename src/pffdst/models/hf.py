"""Any sequence-classification model of a local Hugging Face folder."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pffdst.core.errors import UserError, needs
from pffdst.core.words import one_line
from pffdst.models.transformer import seen

__all__ = ["sequence_classifier"]

_log = logging.getLogger(__name__)
_LISTED = 3  # weights named in a message


def sequence_classifier(
    vocabulary: int,
    length: int,
    padding: int,
    classes: int,
    *,
    path: str,
    pretrained: bool = True,
    attention: str = "eager",
) -> nn.Module:
    """The model in the folder `path`, with a classifier of `classes` outputs; `pretrained` False only takes its sizes.

    `attention` is transformers' setting for how attention is computed. Weights are only read from safetensors, and no
    code in the folder is run; encoder weights that the folder lacks are reported. UserError if the folder has no such
    model or weights of other shapes, or its vocabulary or length is too small.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"model.path must name a Hugging Face folder, but {folder} is not one")
    try:
        import transformers
    except ImportError as error:
        raise needs("model=hf", error, "text") from error
    with _quietly(transformers):
        try:
            config: Any = transformers.AutoConfig.from_pretrained(str(folder), num_labels=classes, **_LOCAL)
            _check(config, vocabulary, length)
            config.pad_token_id = padding
            config._attn_implementation = attention
            kind: Any = transformers.AutoModelForSequenceClassification
            if not pretrained:
                return _Logits(kind.from_config(config), padding)
            made, told = kind.from_pretrained(
                str(folder),
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # the classifier's; others are refused below
                output_loading_info=True,
                **_LOCAL,
            )
            _check_loaded(folder, made, told)
            return _Logits(made.float(), padding)
        except (OSError, ValueError, KeyError, ImportError) as error:
            why = one_line(error, 300)
            raise UserError(
                f"model.path: {folder} has no readable sequence-classification model ({why}); save one there with "
                "save_pretrained (safetensors)"
            ) from error


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class _Logits(nn.Module):
    """Maps tokens directly to logits."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [B, L] to logits [B, classes]; padding is ignored."""
        mask = seen(tokens, self.padding).long()
        return self.model(input_ids=tokens, attention_mask=mask, return_dict=True).logits  # type: ignore[no-any-return]


def _check(config: Any, vocabulary: int, length: int) -> None:
    known = getattr(config, "vocab_size", None)
    if known is not None and vocabulary > known:
        raise UserError(
            f"the tokenizer has {vocabulary:,} tokens, but the model in model.path knows {known:,}: they do not belong "
            "together; write dataset.tokenizer=FOLDER with the model's folder"
        )
    places = getattr(config, "max_position_embeddings", None)
    spare = int(config.pad_token_id or 0) + 1 if "roberta" in str(config.model_type) else 0  # its positions start there
    if places is not None and length > places - spare:
        raise UserError(
            f"dataset.length={length}, but the model takes at most {places - spare} tokens: write dataset.length="
        )


def _check_loaded(folder: Path, made: Any, told: Mapping[str, Any]) -> None:
    """Warns of encoder weights that the folder lacks. UserError if it has none of them, or some of another shape."""
    start = f"{made.base_model_prefix}."
    own = [name for name, _ in made.named_parameters() if name.startswith(start)]
    if other := sorted(f"{n} {list(s)} instead of {list(w)}" for n, s, w in told["mismatched_keys"] if n in own):
        raise ValueError(f"its weights do not have the shapes of its config.json: {_first(other)}")
    if missing := [name for name in own if name in told["missing_keys"]]:
        if len(missing) == len(own):
            raise ValueError(f"its file has none of the {len(own)} weights of {type(made).__name__}")
        _warn(f"{folder} lacks {len(missing)} of {len(own)} weights, which start at random: {_first(missing)}")


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


@functools.cache  # a run builds its network more than once
def _warn(line: str) -> None:
    _log.warning("model.path: %s", line)


@contextlib.contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Silences warnings about the classifier missing from the folder, which is what is going to be trained."""
    before, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)
        if bar:
            transformers.logging.enable_progress_bar()
