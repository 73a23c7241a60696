"""What a network receives as one sample: images are one kind, sequences of tokens another.

A batch of raw samples is one tensor, and so is the network's input. `front` converts one to the other in one place,
for training, for evaluation and in front of a saved model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor, nn

__all__ = ["ImageInputs", "Inputs", "Normalise", "TokenInputs", "random_inputs"]

TOKENIZER: Final = "tokenizer.json"
_MOST = 2**26  # values in a sample described by `words`


class Inputs(ABC):
    """The kind of samples in a data set. Frozen and picklable; equal for equal kinds."""

    noun: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one raw sample; if samples differ in length, of the longest."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What a model's constructor may receive about the samples, by parameter name."""

    @abstractmethod
    def front(self, dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device | str) -> nn.Module:
        """The module that converts raw samples to the input of a network of this `dtype`."""

    @abstractmethod
    def random(self, count: int, dtype: torch.dtype = torch.float32, *, longest: bool = False) -> Tensor:
        """Random network inputs, on the CPU, from torch's global generator.

        They have the samples' average length or, with `longest`, the maximum length, padded.
        """

    @abstractmethod
    def full(self, dtype: torch.dtype) -> Tensor:
        """One input [1, ...] in which every part matters, the same each time."""

    @abstractmethod
    def raw(self, count: int) -> Tensor:
        """Meaningless raw samples of the maximum length."""

    @abstractmethod
    def words(self) -> dict[str, Any]:
        """Plain values that `of_words` reads."""

    def fits(self, other: Inputs) -> bool:
        """Whether a model for these samples can be applied to the other ones."""
        return type(self) is type(other) and self.shape == other.shape

    def files(self) -> dict[str, str]:
        """Texts by file name that are needed along with a model for these samples."""
        return {}

    def with_files(self, read: Callable[[str], str]) -> Inputs:
        """The same with what `read` finds in those files by name; `words` do not contain it."""
        return self

    @staticmethod
    def of_words(words: Mapping[str, Any]) -> Inputs:
        """From plain values. KeyError, TypeError or ValueError if they do not describe any kind of samples."""
        if "vocabulary" in words:
            sizes = [int(words[key]) for key in ("vocabulary", "length", "padding", "typical")]
            told = TokenInputs(sizes[0], sizes[1], sizes[2], sizes[3])
            if not 1 <= told.typical <= told.length <= _MOST or not 0 <= told.padding < told.vocabulary:
                raise ValueError(f"its texts are {told}")
            return told
        channels, height, width = (int(side) for side in words["shape"])
        mean, std = (tuple(float(value) for value in words[key]) for key in ("mean", "std"))
        if min(channels, height, width) < 1 or channels * height * width > _MOST:
            raise ValueError(f"its images are {channels}x{height}x{width}")
        if not len(mean) == len(std) == channels or not all(map(math.isfinite, (*mean, *std))):
            raise ValueError(f"its mean and std must have {channels} numbers each")
        return ImageInputs((channels, height, width), mean, std)


def random_inputs(of: Inputs | Sequence[int], count: int, dtype: torch.dtype, *, longest: bool = False) -> Tensor:
    """Random network inputs for a kind of samples; for a shape, standard normal ones of that shape."""
    if isinstance(of, Inputs):
        return of.random(count, dtype, longest=longest)
    return torch.randn(count, *of, dtype=dtype)


# ---- images ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Images uint8 [C, H, W]; `mean` and `std` have a number per channel, in units of pixel / 255."""

    noun: ClassVar[str] = "images"
    image: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.image

    def arguments(self) -> dict[str, Any]:
        """`channels`, and `size`, the side of the square images."""
        return {"channels": self.image[0], "size": self.image[1]}

    def front(self, dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device | str) -> nn.Module:
        """Normalisation."""
        return Normalise(self.mean, self.std, dtype=dtype, memory_format=memory_format, device=device)

    def random(self, count: int, dtype: torch.dtype = torch.float32, *, longest: bool = False) -> Tensor:
        """Standard normal pixels [count, C, H, W]; `longest` changes nothing for images."""
        return torch.randn(count, *self.image, dtype=dtype)

    def full(self, dtype: torch.dtype) -> Tensor:
        """Ones."""
        return torch.ones(1, *self.image, dtype=dtype)

    def raw(self, count: int) -> Tensor:
        """Black images."""
        return torch.zeros(count, *self.image, dtype=torch.uint8)

    def words(self) -> dict[str, Any]:
        """`mean`, `std` and `shape`."""
        return {"mean": list(self.mean), "std": list(self.std), "shape": list(self.image)}


@final
class Normalise(nn.Module):
    """uint8 images [B, C, H, W] to (images / 255 - mean) / std, in a given `dtype` and `memory_format`.

    `mean` and `std` have a number per channel, in units of pixel / 255. They are constants, not part of a state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.memory_format = memory_format
        for name, numbers in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(numbers), dtype=dtype, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's input, [B, C, H, W]. TypeError for images that are not uint8: they would be scaled twice."""
        if images.dtype != torch.uint8:
            raise TypeError(f"Expected uint8 images [B, C, H, W] with pixels 0 to 255, but got {images.dtype}")
        scaled = images.to(self.mean.dtype, memory_format=self.memory_format).div_(255.0)
        return scaled.sub_(self.mean).div_(self.std)


# ---- sequences of tokens ---------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class TokenInputs(Inputs):
    """Texts as token ids in 0..vocabulary-1, int32 [L] with L <= `length`.

    A batch is padded at the end with the token `padding`, which networks ignore. `typical` is the mean number of
    tokens, rounded up, for which FLOPs are counted. `tokenizer` is the JSON of the tokenizer that produced the ids,
    from the package tokenizers.
    """

    noun: ClassVar[str] = "texts"
    vocabulary: int
    length: int
    padding: int
    typical: int
    tokenizer: str = field(default="", repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(length,)."""
        return (self.length,)

    def arguments(self) -> dict[str, Any]:
        """`vocabulary`, `length` and `padding`."""
        return {"vocabulary": self.vocabulary, "length": self.length, "padding": self.padding}

    def front(self, dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device | str) -> nn.Module:
        """To int64, as embeddings take them."""
        return _Numbers()

    def random(self, count: int, dtype: torch.dtype = torch.float32, *, longest: bool = False) -> Tensor:
        """Random tokens int64 [count, L] without padding; with `longest`, every second text has one token."""
        ids = torch.randint(self.vocabulary - 1, (count, self.length if longest else self.typical))
        ids += ids >= self.padding
        if longest:
            ids[1::2, 1:] = self.padding
        return ids

    def full(self, dtype: torch.dtype) -> Tensor:
        """A text of all tokens in order."""
        ids = torch.arange(self.typical) % (self.vocabulary - 1)
        return (ids + (ids >= self.padding))[None]

    def raw(self, count: int) -> Tensor:
        """Texts of one repeated token."""
        return torch.full((count, self.length), int(self.padding == 0), dtype=torch.int32)

    def words(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**self.arguments(), "typical": self.typical}

    def files(self) -> dict[str, str]:
        """The tokenizer."""
        return {TOKENIZER: self.tokenizer} if self.tokenizer else {}

    def with_files(self, read: Callable[[str], str]) -> TokenInputs:
        """With the tokenizer."""
        return replace(self, tokenizer=read(TOKENIZER))

    def fits(self, other: Inputs) -> bool:
        """Whether the tokens have the same numbers, as far as their count tells."""
        return self == replace(other, typical=self.typical) if isinstance(other, TokenInputs) else False


@final
class _Numbers(nn.Module):
    """Token ids [B, L] to int64."""

    def forward(self, tokens: Tensor) -> Tensor:
        """TypeError if the ids are not int32 or int64."""
        if tokens.is_floating_point():
            raise TypeError(f"Expected token ids [B, L] as int32 or int64, but got {tokens.dtype}")
        return tokens.long()
