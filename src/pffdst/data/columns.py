"""Labels and owners as people write them (words, or numbers with gaps), and their codes 0..n-1.

Codes follow the order of the values: numbers by value, words by their characters, words that are integers by value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.data.dataset import DataError

__all__ = ["Column", "listed", "of_words", "owners_of", "ranked", "shared_labels"]

_LISTED = 10
_WHOLE = re.compile(r"-?\d+")


@final
@dataclass(frozen=True, eq=False)
class Column:
    """One value for each of N samples: `codes` int64 [N].

    kind "numbers": the codes are the values, `names` is empty. "words": code i stands for names[i], and every name
    occurs. "classes": code i stands for names[i] in the file's own numbering, and some names may have no sample.
    """

    codes: Tensor
    kind: Literal["numbers", "words", "classes"] = "numbers"
    names: tuple[str, ...] = ()

    def values(self) -> list[int] | list[str]:
        """The distinct values, in order."""
        if self.kind == "numbers":
            found: list[int] = torch.unique(self.codes).tolist()
            return found
        return list(self.names)

    def recoded(self, order: Sequence[int] | Sequence[str]) -> Tensor:
        """Every value's index in `order`, which contains them all; the codes themselves if that changes nothing."""
        place = {value: number for number, value in enumerate(order)}
        if self.kind == "numbers":
            known, inverse = np.unique(self.codes.numpy(), return_inverse=True)
            table = [place[value] for value in known.tolist()]
        else:
            inverse, table = self.codes.numpy(), [place[name] for name in self.names]
        fresh = torch.from_numpy(np.asarray(table, dtype=np.int64)[inverse.reshape(-1)])
        return self.codes if torch.equal(fresh, self.codes) else fresh


def ranked(words: Iterable[str]) -> list[str]:
    """Distinct words in order: by value when all are whole numbers, else by their characters."""
    distinct = set(words)
    if all(_WHOLE.fullmatch(word) for word in distinct):
        return sorted(distinct, key=lambda word: (int(word), word))
    return sorted(distinct)


def of_words(words: Sequence[str], codes: NDArray[np.int64]) -> Column:
    """The column whose i-th value is words[codes[i]]; the words are distinct and each occurs."""
    names = ranked(words)
    place = {name: number for number, name in enumerate(names)}
    table = np.array([place[word] for word in words], dtype=np.int64)
    return Column(torch.from_numpy(table[codes]), "words", tuple(names))


def shared_labels(
    name: str, train: Column, test: Column, classes: int | None, say: Callable[[str], None]
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Training and test labels int64 in 0..C-1, and the names of the C classes.

    `classes` is C if the configuration declares it. Labels that are not simply 0..C-1 are reported through `say`.
    Raises DataError if the two columns, or they and `classes`, do not match.
    """
    if "classes" in (train.kind, test.kind):
        return _as_numbered_in_the_file(name, train, test, classes)
    _check_kinds(name, train, test, "labels")
    known, tested = train.values(), test.values()
    order = _order(known, tested)
    if classes is None and (unseen := set[int | str](tested) - set(known)):
        raise DataError(
            f"dataset {name}: the test split has labels without a training sample: {listed(_order(unseen))}; "
            f"leave out those rows, or write dataset.classes={len(order)} to count them as classes"
        )
    if train.kind == "numbers" and _plain([*known, *tested], classes):
        count = classes or (max(map(int, [*known, *tested])) + 1 if known or tested else 0)
        return train.codes, test.codes, tuple(str(label) for label in range(count))
    if classes is not None and classes != len(order):
        raise DataError(
            f"dataset {name}: dataset.classes={classes}, but the labels have {len(order)} values: {listed(order)}; "
            "write dataset.classes=null to number them in this order, or the right number"
        )
    say(f"the {len(order)} labels {listed(order)} become classes 0..{len(order) - 1} in this order")
    return train.recoded(order), test.recoded(order), tuple(map(str, order))


def owners_of(name: str, train: Column | None, test: Column | None) -> tuple[Tensor | None, Tensor | None]:
    """The clients 0..C-1 of training and test samples: the training samples' values in order.

    Raises DataError if a test sample's owner has no training sample.
    """
    if train is None:
        return None, None
    order = _order(train.values())
    if test is None or len(test.codes) == 0:
        return train.recoded(order), None
    _check_kinds(name, train, test, "owners")
    if strange := set[int | str](test.values()) - set(order):
        raise DataError(
            f"dataset {name}: {len(strange)} owners of test samples have no training sample: "
            f"{listed(_order(strange))}; remove those rows from the test split, or the column from its files to "
            "divide them by the clients' classes"
        )
    return train.recoded(order), test.recoded(order)


def listed(values: Sequence[int] | Sequence[str]) -> str:
    """The first values as text, for a message."""
    shown = ", ".join(map(str, values[:_LISTED]))
    return shown if len(values) <= _LISTED else f"{shown}, ... ({len(values):,} in all)"


def _order(*values: Iterable[int | str]) -> list[int] | list[str]:
    every = {value for part in values for value in part}
    numbers = [value for value in every if isinstance(value, int)]
    return sorted(numbers) if numbers else ranked(value for value in every if isinstance(value, str))


def _plain(values: Sequence[int | str], classes: int | None) -> bool:
    """Whether numbers are already 0..C-1: within the declared range, or without gaps."""
    distinct = {int(value) for value in values}
    if classes is not None:
        return len(distinct) != classes or all(0 <= value < classes for value in distinct)
    return distinct == set(range(len(distinct)))


def _as_numbered_in_the_file(
    name: str, train: Column, test: Column, classes: int | None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    names = train.names if train.kind == "classes" else test.names
    _check_kinds(name, train, test, "labels")
    if test.kind == train.kind and test.names != train.names:
        raise DataError(
            f"dataset {name}: the training files number the classes {listed(train.names)}, the test files "
            f"{listed(test.names)}; they are not splits of the same data set"
        )
    if classes is not None and classes != len(names):
        raise DataError(
            f"dataset {name}: dataset.classes={classes}, but the files name {len(names)} classes: {listed(names)}; "
            f"write dataset.classes={len(names)}"
        )
    return train.codes, test.codes, names


def _check_kinds(name: str, train: Column, test: Column, what: str) -> None:
    if len(test.codes) and (train.kind == "words") != (test.kind == "words"):
        kinds = ["words" if column.kind == "words" else "numbers" for column in (train, test)]
        raise DataError(
            f"dataset {name}: the {what} of the training split are {kinds[0]}, those of the test split {kinds[1]}; "
            "use the same type in both"
        )
