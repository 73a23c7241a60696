"""Tokenizers, from a Hugging Face folder or trained on the training texts, and texts as token ids."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch

from pffdst.core.errors import needs
from pffdst.core.words import one_line
from pffdst.data.dataset import DataError
from pffdst.data.texts import TextSet

__all__ = ["Tokens", "folder_digest", "numbered", "of_folder", "of_text", "trained"]

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".h5", ".msgpack", ".onnx", ".md")
_CHUNK: Final = 8192
_LETTERS: Final = 1000  # characters known to a trained tokenizer; others are unknown tokens


@final
@dataclass(frozen=True)
class Tokens:
    """A tokenizer as JSON of the package tokenizers, its number of tokens and its padding token."""

    json: str
    vocabulary: int
    padding: int


def trained(texts: Sequence[str], vocabulary: int, lowercase: bool) -> Tokens:
    """A WordPiece tokenizer like BERT's, with at most `vocabulary` tokens: the same for the same texts."""
    package = _package()
    normal, split = package.normalizers.BertNormalizer(lowercase=lowercase), package.pre_tokenizers.BertPreTokenizer()
    plain = [normal.normalize_str(text) for text in texts]
    kept = _alphabet(plain)
    made = package.Tokenizer(package.models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = split
    # The trainer numbers pieces in the order it finds them, which differs between processes, and breaks ties between
    # merges by these numbers, so they are assigned beforehand.
    pieces = [*_SPECIAL, *(f"##{letter}" for letter in sorted(kept))]
    trainer = package.trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=pieces, limit_alphabet=len(kept), show_progress=False
    )
    strange = {ord(letter): " " for letter in set().union(*plain) - kept}
    made.train_from_iterator((text.translate(strange) for text in plain), trainer)
    return _assembled(package, made.get_vocab(), normal, split)


def _alphabet(texts: Sequence[str]) -> set[str]:
    """The most frequent characters; ties go to the lower code point."""
    counts = Counter(letter for text in texts for letter in text if not letter.isspace())
    return set(sorted(counts, key=lambda letter: (-counts[letter], letter))[:_LETTERS])


def _assembled(package: Any, vocabulary: dict[str, int], normal: Any, split: Any) -> Tokens:
    made = package.Tokenizer(package.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normal, split
    made.decoder = package.decoders.WordPiece()
    made.add_special_tokens(list(_SPECIAL))
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = package.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return Tokens(made.to_str(), made.get_vocab_size(), made.token_to_id("[PAD]"))


def of_folder(folder: Path) -> Tokens:
    """The tokenizer in a Hugging Face folder. DataError if there is none."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise needs(f"dataset.tokenizer={folder}", error, "text") from error
    try:
        found: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        text = found.backend_tokenizer.to_str()
    except Exception as error:  # of any kind, since the files are the user's
        why = one_line(error, 200)
        raise DataError(
            f"dataset.tokenizer: {folder} contains no readable tokenizer ({why}); save it there with "
            "save_pretrained, or write dataset.tokenizer=null to train one on the training texts"
        ) from error
    padding = found.pad_token_id if found.pad_token_id is not None else found.eos_token_id
    if padding is None:
        raise DataError(f"dataset.tokenizer: the one in {folder} has no padding token and no end token; set pad_token")
    return Tokens(text, len(found), int(padding))


def of_text(text: str, vocabulary: int, padding: int) -> Tokens:
    """The tokenizer of a finished model from its JSON. DataError if it is none, or has more tokens than the model."""
    try:
        count = _package().Tokenizer.from_str(text).get_vocab_size()
    except Exception as error:  # the package raises plain ones
        raise DataError(f"the model's tokenizer.json is missing or damaged ({one_line(error, 200)})") from error
    if count > vocabulary:
        raise DataError(f"the tokenizer.json beside the model has {count:,} tokens, but the model {vocabulary:,}")
    return Tokens(text, vocabulary, padding)


def folder_digest(folder: Path) -> str:
    """32 hexadecimal digits of the folder's files, except weights."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in _WEIGHTS:
            digest.update(path.name.encode() + b"\0" + hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def numbered(texts: Sequence[str], tokens: Tokens, length: int, labels: torch.Tensor) -> tuple[TextSet, int]:
    """The texts cut after `length` tokens, including the opening and closing ones, and how many were cut."""
    made = _package().Tokenizer.from_str(tokens.json)
    made.no_padding()
    made.enable_truncation(length)
    pieces, lengths, cut = [], [], 0
    for chunk in _chunks(texts):
        for found in made.encode_batch(chunk):
            pieces.append(np.asarray(found.ids, dtype=np.int32))
            lengths.append(len(found.ids))
            cut += bool(found.overflowing)
    starts = torch.zeros(len(texts) + 1, dtype=torch.int64)
    torch.cumsum(torch.tensor(lengths, dtype=torch.int64), 0, out=starts[1:])
    flat = torch.from_numpy(np.concatenate([np.empty(0, np.int32), *pieces]))
    return TextSet(flat, starts, torch.tensor([tokens.padding, length], dtype=torch.int32), labels), cut


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _CHUNK):
        yield list(texts[start : start + _CHUNK])


def _package() -> Any:
    # Its threads would be lost in forked workers, and it would warn about that.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: F401
    except ImportError as error:
        raise needs("a data set of texts", error, "text") from error
    return tokenizers
