"""What passes between server and nodes: Flower's records around the wire's bytes, which travel as they are, once.

    to a node     payload  bytes   a downlink of the wire
                  task     format, run, client, t, last, safe
                  setup    bytes   what a client must know of the run, as JSON, zstandard-compressed
    to the server payload  bytes   an uplink of the wire; missing where there is a problem
                  answer   format, run, client, t, problem, lost, and the seconds of start, decode, train, encode

What a node answers is nobody's word: `answer_of` takes it apart field by field.
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
    "one_line",
    "pack_setup",
    "reply",
    "task_of",
    "to_node",
    "unpack_setup",
]

FORMAT: Final = 1
NEVER: Final = -(2**31)
"""Stands for a round where there was none yet."""
_MOST_SETUP: Final = 2**24  # bytes


class BadRecord(UserError):
    """A message that is not what this version sends. The text names the field."""


@final
@dataclass(frozen=True)
class Task:
    """Round `t` of client `client` in the run that is called `run`.

    `last` is the last round whose answer of this client arrived, NEVER for none: what the client kept of that one
    counts. It need keep nothing from before `safe`, where the server's checkpoint is.
    """

    run: str
    client: int
    t: int
    last: int
    safe: int


@final
@dataclass(frozen=True)
class Answer:
    """What a node says beside its bytes. `lost`: it no longer has what it kept."""

    run: str
    client: int
    t: int
    problem: str = ""
    lost: bool = False
    start: float = 0.0
    decode: float = 0.0
    train: float = 0.0
    encode: float = 0.0


def pack_setup(brief: Any) -> bytes:
    """What clients are told of the run."""
    return zstandard.compress(json.dumps(brief, allow_nan=False).encode())


def unpack_setup(body: bytes) -> Any:
    """The other way round. Raises BadRecord."""
    try:
        return json.loads(zstandard.ZstdDecompressor().decompress(body, max_output_size=_MOST_SETUP))
    except (zstandard.ZstdError, ValueError) as error:
        raise BadRecord(f"setup: cannot be read ({error})") from error


def to_node(task: Task, payload: bytes, setup: bytes, node: int, seconds: float) -> Message:
    """A task on its way to a node, where it is worth nothing after so many seconds."""
    content = RecordDict(
        {
            "payload": ConfigRecord({"bytes": payload}),
            "task": ConfigRecord({"format": FORMAT, **vars(task)}),
            "setup": ConfigRecord({"bytes": setup}),
        }
    )
    return Message(content, dst_node_id=node, message_type="train", ttl=seconds, group_id=str(task.t + 1))


def task_of(message: Message) -> tuple[Task, bytes, bytes]:
    """A task, its payload and the setup. Raises BadRecord."""
    content = message.content
    return _record(content, "task", Task), _bytes(content, "payload"), _bytes(content, "setup")


def reply(message: Message, answer: Answer, payload: bytes | None) -> Message:
    """An answer on its way back."""
    records = {"answer": ConfigRecord({"format": FORMAT, **vars(answer)})}
    if payload is not None:
        records["payload"] = ConfigRecord({"bytes": payload})
    return Message(RecordDict(records), reply_to=message)


def answer_of(message: Message, most: int) -> tuple[Answer, bytes | None]:
    """A node's answer and its payload of at most so many bytes, None where it says what the problem was.

    Raises BadRecord.
    """
    if message.has_error():
        raise BadRecord(f"the node failed: {one_line(message.error.reason or f'error {message.error.code}')}")
    answer: Answer = _record(message.content, "answer", Answer)
    if answer.problem:
        return answer, None
    payload = _bytes(message.content, "payload")
    if len(payload) > most:
        raise BadRecord(f"payload: at most {most:,} bytes are taken, but got {len(payload):,}")
    return answer, payload


def _record(content: Any, name: str, kind: Any) -> Any:
    """The dataclass that a record holds, its version and the type of every field checked."""
    record = content.config_records.get(name)
    if record is None:
        raise BadRecord(f"{name}: the record is missing")
    if record.get("format") != FORMAT:
        raise BadRecord(
            f"{name}: expected format {FORMAT}, but got {record.get('format')!r:.40}; install the same version of "
            "pffdst at the server and at the nodes"
        )
    types = {"str": str, "int": int, "float": float, "bool": bool}
    values = {}
    for field in fields(kind):
        value = record.get(field.name)
        if type(value) is not types[str(field.type)]:
            raise BadRecord(f"{name}.{field.name}: expected {field.type}, but got {value!r:.40}")
        values[field.name] = one_line(value) if isinstance(value, str) else value
    return kind(**values)


def _bytes(content: Any, name: str) -> bytes:
    body = content.config_records.get(name, {}).get("bytes")
    if not isinstance(body, bytes):
        raise BadRecord(f"{name}: the record is missing, or holds no bytes")
    return body


def one_line(text: str) -> str:
    """Words of another machine, as a log may show them."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]
