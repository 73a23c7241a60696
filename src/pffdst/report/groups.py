"""Which runs are seeds of one method: grouped by the configuration keys in which they differ."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard, final

from pffdst.config import schema
from pffdst.core.words import typed
from pffdst.report.reading import EVALUATED_ON, Run, Scalar

__all__ = ["NEUTRAL", "Group", "Keys", "differing_keys", "group_runs", "is_counted", "is_neutral", "keys_of"]

# Keys that do not change results, as in a run's fingerprint, and the seed, over which means are taken.
NEUTRAL = schema.NEUTRAL | {"seed"}
_NEUTRAL_KEYS = frozenset(
    {
        *(f"dataset.{key}" for key in schema.NEUTRAL_DATASET),
        *(f"partition.{key}" for key in schema.NEUTRAL_PARTITION),
    }
)
# A method is named first, then by what makes it an ablation, then by its setting.
_FIRST = (
    "method_name",
    EVALUATED_ON,
    "freeze",
    "readjust",
    "allocation",
    "aggregation",
    "codec",
    "sparsity",
    "dataset.name",
    "model",
)


@final
@dataclass(frozen=True)
class Keys:
    """`differing`: every key in which runs differ, with its values; `chosen`: those that distinguish the groups."""

    differing: Mapping[str, Sequence[Scalar]]
    chosen: tuple[str, ...]
    words: Mapping[str, Mapping[str, str]]


@final
@dataclass(frozen=True)
class Group:
    """Runs that only differ in the seed. `label` names what distinguishes them from the other groups."""

    label: str
    values: Mapping[str, Scalar]
    runs: tuple[Run, ...]


def is_counted(run: Run) -> bool:
    """Whether a run counts in means: finished, with figures, and not replaced by another run of its configuration."""
    return run.status == "done" and run.has_figures and not run.twin


def differing_keys(runs: Sequence[Run]) -> dict[str, list[Scalar]]:
    """The keys in which the runs' configurations differ, with their values, without neutral keys and the seed."""
    known = [key for key in dict.fromkeys(key for run in runs for key in run.config) if not is_neutral(key)]
    found = {key: list(dict.fromkeys(run.config.get(key) for run in runs)) for key in known}
    kept = {key: sorted(values, key=_order) for key, values in found.items() if len(values) > 1}
    return dict(sorted(kept.items(), key=lambda item: _rank(item[0])))


def keys_of(runs: Sequence[Run], wanted: Sequence[str] | None = None) -> Keys:
    """The differing keys and, of these, the fewest that distinguish all groups, or those `wanted`.

    Keys are tried in order, and one is added if it divides some group further: a method's own settings follow from its
    name.
    """
    differing = differing_keys(runs)
    if wanted is not None and EVALUATED_ON in differing and EVALUATED_ON not in wanted:
        wanted = [*wanted, EVALUATED_ON]  # accuracies on different samples never share a mean
    chosen: list[str] = []
    for key in differing if wanted is None else ():
        if len(_divided(runs, [*chosen, key])) > len(_divided(runs, chosen)):
            chosen.append(key)
    return Keys(differing, tuple(chosen if wanted is None else wanted), _words(runs, differing))


def group_runs(runs: Iterable[Run], keys: Keys) -> list[Group]:
    """The runs grouped by equal values of the chosen keys, in order of those values."""
    runs = list(runs)
    divided = _divided(runs, keys.chosen)
    groups = sorted(divided.items(), key=lambda item: [_order(value) for value in item[0]])
    usual = _usual(keys.chosen, divided)
    named = [(dict(zip(keys.chosen, values, strict=True)), members) for values, members in groups]
    return [Group(_label(values, usual, keys), values, tuple(members)) for values, members in named]


def _divided(runs: Sequence[Run], keys: Sequence[str]) -> dict[tuple[Scalar, ...], list[Run]]:
    found: dict[tuple[Scalar, ...], list[Run]] = defaultdict(list)
    for run in runs:
        found[tuple(run.config.get(key) for key in keys)].append(run)
    return dict(found)


def _usual(keys: Sequence[str], divided: Iterable[tuple[Scalar, ...]]) -> dict[tuple[Scalar, str], Scalar]:
    """By method (the first key's value) and key, the value that need not be shown.

    It is the only one among the method's groups or, for words, the value of more than half of them.
    """
    seen: dict[tuple[Scalar, str], Counter[Scalar]] = defaultdict(Counter)
    for values in divided:
        for key, value in zip(keys, values, strict=True):
            seen[values[0], key][value] += 1
    found = {}
    for place, counts in seen.items():
        value, count = counts.most_common(1)[0]
        if len(counts) == 1 or (2 * count > counts.total() and not all(_is_number(each) for each in counts)):
            found[place] = value
    return found


def _label(values: Mapping[str, Scalar], usual: Mapping[tuple[Scalar, str], Scalar], keys: Keys) -> str:
    if not values:
        return "all runs"
    first, *rest = values
    shown = [(word if first == "method_name" else told)(first, values[first], keys.words)]
    goes_without = {key for key in rest if (place := (values[first], key)) in usual and usual[place] == values[key]}
    return " · ".join([*shown, *(told(key, values[key], keys.words) for key in rest if key not in goes_without)])


def told(key: str, value: Scalar, words: Mapping[str, Mapping[str, str]]) -> str:
    """A key and its value, as `sparsity 0.95`."""
    return f"{key.removesuffix('.name')} {word(key, value, words)}"


def word(key: str, value: Scalar, words: Mapping[str, Mapping[str, str]]) -> str:
    """A value as people write it on the command line."""
    if value is None or isinstance(value, bool):
        return "unset" if value is None else typed(value)
    return words.get(key, {}).get(str(value), f"{value:g}" if isinstance(value, float) else str(value))


def _words(runs: Iterable[Run], keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """The option's name for each class, where they correspond one to one: `freeze: {NoFreezing: none}`."""
    runs, found = list(runs), {}
    for key in keys:
        pairs = {(str(run.config.get(key)), run.choices[key]) for run in runs if key in run.choices}
        once = [Counter(side) for side in zip(*pairs, strict=True)] if pairs else []
        plain = {a: b for a, b in pairs if once[0][a] == once[1][b] == 1}
        if plain:
            found[key] = plain
    return found


def is_neutral(key: str) -> bool:
    """Whether a configuration key or group changes no result; this includes the seed, over which means are taken."""
    return re.split("[./]", key)[0] in NEUTRAL or key in _NEUTRAL_KEYS


def _rank(key: str) -> tuple[int, bool, str]:
    return (_FIRST.index(key) if key in _FIRST else len(_FIRST), "." in key, key)


def _order(value: Scalar) -> tuple[bool, float, str]:
    """Numbers by size, before words in alphabetical order."""
    return (False, float(value), "") if _is_number(value) else (True, 0.0, str(value))


def _is_number(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
