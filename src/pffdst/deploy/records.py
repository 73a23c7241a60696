"""Messages between server and nodes: Flower's records around the wire's bytes, which are sent once, unchanged.

    to a node     payload  bytes   a downlink of the wire
                  task     format, run, client, t, last, safe
                  setup    bytes   what a client must know about the run, as JSON, zstandard-compressed
    to the server payload  bytes   an uplink of the wire; missing if there is a problem
                  answer   format, run, client, t, problem, lost, unable; seconds of start, decode, train, encode

A node's answer is not trusted: `answer_of` checks it field by field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final, final

import zstandard
from flwr.app import ConfigRecord, Message, RecordDict

from pffdst.core.errors import UserError

__all__ = [
    "FORMAT",
    "NEVER",
    "Answer",
    "BadRecord",
    "Task",
    "answer_of",
    "pack_setup",
    "printable",
    "reply",
    "task_of",
    "to_node",
    "unpack_setup",
]

FORMAT: Final = 1
NEVER: Final = -(2**31)
"""Stands for "no round yet"."""
_MOST_SETUP: Final = 2**24  # bytes


class BadRecord(UserError):
    """A message that this version does not send. The text names the field."""


@final
@dataclass(frozen=True)
class Task:
    """Round `t` of client `client` in the run `run`.

    `last` is the last round for which this client's answer arrived, NEVER for none: the state it kept then counts. It
    need not keep anything from before `safe`, the round of the server's checkpoint.
    """

    run: str
    client: int
    t: int
    last: int
    safe: int


@final
@dataclass(frozen=True)
class Answer:
    """What a node reports besides its bytes.

    `lost`: its kept state is gone. `unable`: it can do no task of this run until its operator changes something.
    """

    run: str
    client: int
    t: int
    problem: str = ""
    lost: bool = False
    unable: bool = False
    start: float = 0.0
    decode: float = 0.0
    train: float = 0.0
    encode: float = 0.0


def pack_setup(brief: Any) -> bytes:
    """Packs what clients must know about the run."""
    return zstandard.compress(json.dumps(brief, allow_nan=False).encode())


def unpack_setup(body: bytes) -> Any:
    """The inverse. Raises BadRecord."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:  # never more, whatever the frame declares
            found = reader.read(_MOST_SETUP + 1)
        if len(found) > _MOST_SETUP:
            raise BadRecord(f"setup: expected at most {_MOST_SETUP:,} bytes")
        return json.loads(found)
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise BadRecord(f"setup: cannot be read ({error})") from error


def to_node(task: Task, payload: bytes, setup: bytes, node: int, seconds: float) -> Message:
    """The message with a task for a node; it expires after the given seconds."""
    content = RecordDict(
        {
            "payload": ConfigRecord({"bytes": payload}),
            "task": ConfigRecord({"format": FORMAT, **vars(task)}),
            "setup": ConfigRecord({"bytes": setup}),
        }
    )
    return Message(content, dst_node_id=node, message_type="train", ttl=seconds, group_id=str(task.t + 1))


def task_of(message: Message) -> tuple[Task, bytes, bytes]:
    """The task, its payload and the setup in a message. Raises BadRecord."""
    content = message.content
    return _record(content, "task", Task), _bytes(content, "payload"), _bytes(content, "setup")


def reply(message: Message, answer: Answer, payload: bytes | None) -> Message:
    """The message with an answer."""
    records = {"answer": ConfigRecord({"format": FORMAT, **vars(answer)})}
    if payload is not None:
        records["payload"] = ConfigRecord({"bytes": payload})
    return Message(RecordDict(records), reply_to=message)


def answer_of(message: Message, most: int) -> tuple[Answer, bytes | None]:
    """A node's answer and its payload of at most `most` bytes, None if the answer reports a problem.

    Raises BadRecord.
    """
    if message.has_error():
        raise BadRecord(f"the node failed: {printable(message.error.reason or f'error {message.error.code}')}")
    answer: Answer = _record(message.content, "answer", Answer)
    if answer.problem:
        return answer, None
    payload = _bytes(message.content, "payload")
    if len(payload) > most:
        raise BadRecord(f"payload: expected at most {most:,} bytes, but got {len(payload):,}")
    return answer, payload


def _record(content: Any, name: str, kind: Any) -> Any:
    """The dataclass in a record, after checking its version and the type of every field."""
    record = content.config_records.get(name)
    if record is None:
        raise BadRecord(f"{name}: the record is missing")
    if record.get("format") != FORMAT:
        raise BadRecord(
            f"{name}: expected format {FORMAT}, but got {record.get('format')!r:.40}; install the same version of "
            "pffdst on the server and on the nodes"
        )
    types = {"str": str, "int": int, "float": float, "bool": bool}
    values = {}
    for field in fields(kind):
        value = record.get(field.name)
        if type(value) is not types[str(field.type)]:
            raise BadRecord(f"{name}.{field.name}: expected {field.type}, but got {value!r:.40}")
        values[field.name] = printable(value) if isinstance(value, str) else value
    return kind(**values)


def _bytes(content: Any, name: str) -> bytes:
    body = content.config_records.get(name, {}).get("bytes")
    if not isinstance(body, bytes):
        raise BadRecord(f"{name}: the record is missing or contains no bytes")
    return body


def printable(text: str) -> str:
    """Text from another machine, made safe for a log."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]
