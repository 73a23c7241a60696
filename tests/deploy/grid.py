"""Nodes without sockets: a Grid whose nodes are played in this process, with data and state of their own on disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from pffdst.deploy.node import Turns
from pffdst.deploy.records import Answer, reply, task_of
from pffdst.deploy.survey import decline, is_survey, tell


class Nodes:
    """A Grid. `meddle` may put another answer in an answer's place, or None for silence; `down` are not connected."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.folder, self.files = folder, files
        self.down: set[int] = set()
        self.telling = set(range(len(files)))
        self.meddle: Callable[[int, Message, Answer, bytes | None], Message | None] | None = None
        self.sent: list[tuple[int, int, int]] = []  # client, t, bytes of the payload
        self._names = itertools.count()
        self._answers: dict[str, Message] = {}
        self._turns = [Turns() for _ in files]

    def state(self, client: int) -> Path:
        return self.folder / f"state-{client}"

    def get_nodes(self) -> list[Any]:
        strangers = [SimpleNamespace(name="client-99", node_id=99), SimpleNamespace(name="", node_id=7)]
        there = [c for c in range(len(self.files)) if c not in self.down]
        return [SimpleNamespace(name=f"client-{c}", node_id=100 + c) for c in there] + strangers

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            names.append(f"m{next(self._names)}")
            message.metadata.__dict__["_message_id"] = names[-1]
            client = message.metadata.dst_node_id - 100
            if client in self.down:
                continue
            if is_survey(message):
                told = client in self.telling
                back = tell(message, self.files[client], self.state(client) / "cache") if told else decline(message)
                self._answers[names[-1]] = back
                continue
            if message.metadata.message_type == "query":
                self._answers[names[-1]] = Message(RecordDict({"alive": ConfigRecord({})}), reply_to=message)
                continue
            task, payload, setup = task_of(message)
            self.sent.append((client, task.t, len(payload)))
            answer, update = self._turns[client].play(
                task, setup, payload, state=str(self.state(client)), data=str(self.files[client])
            )
            back = reply(message, answer, update)
            if self.meddle is not None:
                back = self.meddle(client, message, answer, update)
            if back is not None:
                self._answers[names[-1]] = back
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        return [self._answers.pop(name) for name in list(names) if name in self._answers]
