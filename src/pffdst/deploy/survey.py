"""What the server may ask nodes before a run, if their operators allow it: the number of samples per class.

    to a node      survey  format, channels, resize, crop      (0 stands for null)
    to the server  told    format, problem, names, counts, shape, sums, squares

`counts` are a node's samples by class; `sums` and `squares` are those of its pixel values, per channel, from which
the mean and standard deviation over all clients follow. No image and no label of a single image is sent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from flwr.app import ConfigRecord, Message, RecordDict

from pffdst.core.errors import UserError
from pffdst.core.words import typed
from pffdst.deploy import session
from pffdst.deploy.records import FORMAT, BadRecord, printable

__all__ = ["DECLINED", "Ask", "Told", "decline", "is_survey", "survey", "tell", "told_of"]

DECLINED: Final = "its operator does not allow this; --node-config 'tell=\"counts\"' allows it"
_MOST_CLASSES: Final = 100_000
_POLL: Final = 0.25

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Ask:
    """What `clients` nodes are asked, and where the answer is written: `counts` is the table's file.

    `wait` are the seconds for nodes to connect and answer.
    """

    clients: int
    counts: str
    channels: int = 0
    resize: int = 0
    crop: bool = False
    wait: float = 120.0

    @classmethod
    def of_words(cls, text: str) -> Ask:
        """From the run configuration given to Flower."""
        return cls(**json.loads(text))


@final
@dataclass(frozen=True)
class Told:
    """What a node reports about its samples; `problem` says why it reports nothing."""

    problem: str = ""
    counts: Mapping[str, int] | None = None
    shape: tuple[int, ...] = ()
    sums: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()


# ---- at a node -------------------------------------------------------------------------------------------------------


def is_survey(message: Message) -> bool:
    """Whether a query is a survey and not a request for a sign of life."""
    return "survey" in message.content.config_records


def tell(message: Message, data: Path, cache: Path) -> Message:
    """A node's answer. Problems with its data are reported in it."""
    from pffdst.data.sources.counted import images_of  # seconds of imports, which a sign of life does not need
    from pffdst.data.sources.decode import Form

    asked = message.content.config_records["survey"]
    form = Form(int(asked["channels"]) or None, int(asked["resize"]) or None, bool(asked["crop"]))
    try:
        found = images_of(data, cache, form)
    except UserError as error:
        return decline(message, str(error))
    labels, pixels = found.train.labels, found.train.columns()["images"]
    wide = [pixels[:, channel].numpy().astype("int64") for channel in range(pixels.shape[1])]
    record = {
        "problem": "",
        "names": list(found.class_names),
        "counts": labels.bincount(minlength=found.classes).tolist(),
        "shape": list(pixels.shape[1:]),
        "sums": [int(channel.sum()) for channel in wide],
        "squares": [int((channel**2).sum()) for channel in wide],
    }
    return _answer(message, record)


def decline(message: Message, problem: str = DECLINED) -> Message:
    """The answer of a node whose operator does not allow surveys, or that has another `problem`."""
    return _answer(message, {"problem": printable(problem)})


def _answer(message: Message, record: Mapping[str, Any]) -> Message:
    return Message(RecordDict({"told": ConfigRecord({"format": FORMAT, **record})}), reply_to=message)


# ---- at the server ---------------------------------------------------------------------------------------------------


def told_of(message: Message) -> Told:
    """A node's answer, checked field by field. Raises BadRecord."""
    if message.has_error():
        raise BadRecord(f"the node failed: {printable(message.error.reason or f'error {message.error.code}')}")
    record = message.content.config_records.get("told")
    if record is None or record.get("format") != FORMAT:
        raise BadRecord("report: the record is missing or has another version: install the same pffdst everywhere")
    if problem := record.get("problem"):
        return Told(printable(str(problem)))
    names, counts, shape, sums, squares = (
        _listed(record, name, kind)
        for name, kind in (("names", str), ("counts", int), ("shape", int), ("sums", int), ("squares", int))
    )
    channels, pixels = (shape[0], sum(counts) * shape[1] * shape[2]) if len(shape) == 3 else (0, 0)
    fits = len(names) == len(counts) == len(set(names)) and len(sums) == len(squares) == channels in (1, 3)
    possible = all(n >= 0 for n in counts) and all(
        0 <= s <= 255 * pixels and s * s <= q * pixels and q <= 255 * s for s, q in zip(sums, squares, strict=False)
    )
    if not fits or not possible or pixels <= 0:
        raise BadRecord("report: the counts and sums are inconsistent")
    own = {printable(name): n for name, n in zip(names, counts, strict=True) if n > 0}
    return Told("", own, tuple(shape), tuple(sums), tuple(squares))


def _listed(record: Any, name: str, kind: type) -> list[Any]:
    found = record.get(name)
    if not isinstance(found, list) or len(found) > _MOST_CLASSES or any(type(value) is not kind for value in found):
        raise BadRecord(f"report.{name}: expected a list of {kind.__name__}, but got {found!r:.40}")
    return found


def survey(grid: Any, ask: Ask) -> list[str]:
    """Asks all clients, writes the table and returns the settings to use. UserError if a client does not report."""
    from pffdst.data.sources.counted import write_counts

    told = _answers(grid, ask)
    missing = [f"client {c}: {told[c].problem if c in told else 'no answer'}" for c in range(ask.clients)]
    missing = [line for c, line in enumerate(missing) if c not in told or told[c].problem]
    if missing:
        raise UserError("not all clients reported their sample counts:\n" + "\n".join(f"  - {m}" for m in missing))
    found = [told[client] for client in range(ask.clients)]
    shapes = {one.shape for one in found}
    if len(shapes) > 1:
        sizes = ", ".join(sorted("x".join(map(str, shape)) for shape in shapes))
        raise UserError(f"the clients' images have several shapes, {sizes}: write e.g. --resize 32 or --channels 3")
    write_counts(Path(ask.counts), [one.counts or {} for one in found])
    mean, std = statistics(found)
    form = {"channels": shapes.pop()[0], "resize": ask.resize or None, "crop": ask.crop}
    return [
        *("engine=flower", "dataset=counted", f"dataset.counts={ask.counts}"),
        *(f"dataset.{key}={typed(value)}" for key, value in form.items()),
        *(f"dataset.mean={_written(mean)}", f"dataset.std={_written(std)}"),
        *("partition=column", "partition.column=client", f"clients={ask.clients}", f"cohort={ask.clients}"),
    ]


def statistics(found: Sequence[Told]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel over all clients, in units of pixel / 255."""
    mean, std = [], []
    for channel in range(found[0].shape[0]):
        pixels = sum(sum((one.counts or {}).values()) * one.shape[1] * one.shape[2] for one in found)
        first, second = sum(one.sums[channel] for one in found), sum(one.squares[channel] for one in found)
        mean.append(first / pixels / 255)
        std.append(max(second * pixels - first**2, 0) ** 0.5 / pixels / 255)
    return mean, std


def _written(values: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:.6g}" for value in values) + "]"


def _answers(grid: Any, ask: Ask) -> dict[int, Told]:
    """The answers of the clients that connect in time; each is asked once."""
    until, owner, told = time.monotonic() + ask.wait, dict[str, int](), dict[int, Told]()
    content = {"format": FORMAT, "channels": ask.channels, "resize": ask.resize, "crop": ask.crop}
    while len(told) < ask.clients and time.monotonic() < until:
        there = session.connected(grid, ask.clients)
        new = [client for client in there if client not in owner.values()]
        asked = [
            Message(RecordDict({"survey": ConfigRecord(content)}), there[client], "query", ttl=ask.wait)
            for client in new
        ]
        names = grid.push_messages(asked) if asked else []
        owner |= {name: client for client, name in zip(new, names, strict=False) if name is not None}
        for message in grid.pull_messages(list(owner)):
            client = owner.get(message.metadata.reply_to_message_id)
            if client is not None and client not in told:
                told[client] = _told(client, message)
        time.sleep(_POLL)
    return told


def _told(client: int, message: Message) -> Told:
    try:
        found = told_of(message)
    except BadRecord as error:
        found = Told(str(error))
    _log.info("client %d: %s", client, found.problem or f"{sum((found.counts or {}).values()):,} samples")
    return found
