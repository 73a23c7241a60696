"""Clients on their own machines, over Flower: tasks are pushed as messages, answers are pulled as they arrive."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, final

from flwr.app import ConfigRecord, Message, RecordDict

from pffdst.client.turn import ClientSetup
from pffdst.core.errors import LostError, UserError
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.messages import ClientTask, Kept, Timings, Update
from pffdst.deploy import session
from pffdst.deploy.records import NEVER, BadRecord, Task, answer_of, pack_setup, to_node
from pffdst.engines.base import Engine, Job
from pffdst.wire.downlink import Memory

__all__ = ["FlowerEngine"]

_ROOM: Final = 2**16  # bytes of an update besides its values

_log = logging.getLogger(__name__)


@final
class FlowerEngine(Engine):
    """Every client is a Flower node with its own data and memory; works only inside a ServerApp.

    The first round waits up to `gather` seconds for all clients to connect. A round waits `deadline` seconds for its
    answers. With fewer than `min_clients` clients, before a round or in its answers, it waits `patience` more seconds,
    then the run stops. `poll` are the seconds between two checks for answers. `max_bytes` limits the size of an answer;
    null allows an update of 8 bytes per value.
    """

    simulates: ClassVar[bool] = False

    def __init__(
        self,
        *,
        deadline: float = 600.0,
        min_clients: int = 1,
        patience: float = 600.0,
        gather: float = 60.0,
        poll: float = 0.25,
        max_bytes: int | None = None,
        channels_last: bool = True,
    ) -> None:
        for name, value in (("deadline", deadline), ("poll", poll), ("min_clients", min_clients)):
            if not value > 0:
                raise ValueError(f"Expected `engine.{name}` to be above 0, but got {value}")
        for name, value in (("patience", patience), ("gather", gather)):
            if not value >= 0:
                raise ValueError(f"Expected `engine.{name}` to be seconds, 0 or more, but got {value}")
        if max_bytes is not None and not max_bytes > 0:
            raise ValueError(f"Expected `engine.max_bytes` to be above 0 or null, but got {max_bytes}")
        self.deadline, self.min_clients, self.patience = deadline, min_clients, patience
        self.gather, self.poll, self.max_bytes, self.channels_last = gather, poll, max_bytes, channels_last
        self._grid: Any = None
        self._nodes: dict[int, int] = {}
        self._silent: dict[int, list[str]] = {}  # clients that missed a deadline, and what they have not answered yet
        self._gathered = False
        self._curable = set[int]()
        self._run = secrets.token_hex(8)
        self._last: dict[int, int] = {}  # the round of each client's newest state
        self._told: dict[int, int] = {}  # as `state_dict` gave it last
        self._saved: dict[int, int] = {}  # as the checkpoint on disk has it

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Not running inside Flower, or fewer clients than `min_clients`."""
        found = []
        if session.current() is None:
            found.append(
                "engine=flower must be started by Flower: use `pffdst deploy run ...` (docs/deploy.md), or "
                "write engine=fabric to simulate the clients here"
            )
        if facts.clients is not None and self.min_clients > facts.clients:
            found.append(f"engine.min_clients={self.min_clients} is more than the {facts.clients} clients there are")
        return found

    def start(self, setup: ClientSetup) -> None:
        """Takes the connection that Flower offers to this process."""
        self._grid = session.current()
        if self._grid is None:
            raise UserError(self.problems()[0])
        self._setup, self._packed = setup, pack_setup({**self.brief, "channels_last": self.channels_last})
        self._most = 8 * setup.layout.total + _ROOM if self.max_bytes is None else self.max_bytes

    # ---- connected clients -------------------------------------------------------------------------------------------

    def away(self, cohort: Sequence[int], t: int) -> Mapping[int, str]:
        """The clients that cannot be reached, after waiting if too few can. UserError if they are still too few."""
        if not self._gathered:
            self._wait(range(self._setup.clients), self._setup.clients, self.gather, "clients")
            self._gathered = True
        needed = min(self.min_clients, len(cohort))
        there = self._wait(cohort, needed, self.patience, f"clients of round {t + 1}")
        if len(there) < needed:
            raise self._too_few(t, len(there), len(cohort), f"could be reached within {self.patience:g} s")
        return {c: self._absence(c) for c in cohort if c not in there}

    def _wait(self, clients: Sequence[int], needed: int, seconds: float, what: str) -> list[int]:
        """The reachable clients, once `needed` of them are there or after the given seconds."""
        until, said = time.monotonic() + seconds, False
        while len(there := self._reachable(clients)) < needed and time.monotonic() < until:
            if not said:
                _log.info("waiting %g s for %d of the %s: %d connected", seconds, needed, what, len(there))
                said = True
            time.sleep(self.poll)
        return there

    def _reachable(self, clients: Sequence[int]) -> list[int]:
        """The connected clients, without those whose answer is overdue."""
        before, self._nodes = self._nodes, session.connected(self._grid, self._setup.clients)
        for client in sorted({*before} ^ {*self._nodes}):
            _log.info("client %d is %s", client, "connected" if client in self._nodes else "no longer connected")
        for client in list(self._silent):
            self._call(client)
        return [c for c in clients if c in self._nodes and c not in self._silent]

    def _call(self, client: int) -> None:
        """Checks whether a silent client has answered since then, and asks it for a sign of life."""
        owed = self._silent[client]
        if any(True for _ in self._grid.pull_messages(owed)):
            _log.info("client %d is back", client)
            del self._silent[client]
        elif client in self._nodes and len(owed) == 1:
            content = RecordDict({"call": ConfigRecord({"run": self._run})})
            call = Message(content, self._nodes[client], "query", ttl=self.deadline + self.patience)
            owed += [m for m in self._grid.push_messages([call]) if m is not None]

    def _absence(self, client: int) -> str:
        if client in self._silent:
            return "has been silent since it missed a deadline: nothing is sent to it"
        return "is not connected: nothing is sent to it"

    def _too_few(self, t: int, there: int, cohort: int, what: str) -> LostError:
        return LostError(
            f"round {t + 1}: {there} of {cohort} clients {what}, but engine.min_clients={self.min_clients}; check the "
            "nodes (`flwr supernode list`)."
        )

    # ---- a round -----------------------------------------------------------------------------------------------------

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[Update]:
        """The updates of a round; clients store their own state."""
        return self.train([Job(task, Memory()) for task in tasks])

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Sends every task to its node, then yields the answers in the jobs' order once all are in or time is up."""
        tasks = {job.task.client: job.task for job in jobs}
        pending = self._push(tasks)
        answered = self._pull(tasks, dict(pending))
        for client, message in pending.items():
            if client not in answered:
                self._silent[client] = [message]
        for client in tasks:
            yield answered.get(client) or Update(client, None, self._no_answer(client, pending))

    def _no_answer(self, client: int, pending: Mapping[int, str]) -> str:
        return f"no answer within {self.deadline:g} s" if client in pending else "the SuperLink rejected its message"

    def _push(self, tasks: Mapping[int, ClientTask]) -> dict[int, str]:
        """The message ids by client."""
        messages = []
        for client, task in tasks.items():
            own = Task(self._run, client, task.t, self._last.get(client, NEVER), self._saved.get(client, NEVER))
            seconds = self.deadline + self.patience
            messages.append(to_node(own, task.payload, self._packed, self._nodes[client], seconds))
        names = self._grid.push_messages(messages) if messages else []
        return {client: name for client, name in zip(tasks, names, strict=False) if name is not None}

    def _pull(self, tasks: Mapping[int, ClientTask], pending: dict[int, str]) -> dict[int, Update]:
        """The answers by client. UserError if too few are usable after deadline and patience."""
        began, found, late = time.monotonic(), dict[int, Update](), False
        self._curable = set()
        needed = min(self.min_clients, len(tasks))
        while pending:
            owner = {name: client for client, name in pending.items()}
            for message in self._grid.pull_messages(list(owner)):
                client = owner.get(message.metadata.reply_to_message_id)
                if client is not None and client in pending:
                    del pending[client]
                    found[client] = self._update(tasks[client], message)
            usable = sum(update.payload is not None for update in found.values())
            past = time.monotonic() - began - self.deadline
            if not pending or (past >= 0 and usable >= needed) or past >= self.patience:
                break
            if past >= 0 and not late:
                _log.warning("%d of %d clients answered: waiting %g s more", usable, len(tasks), self.patience)
                late = True
            time.sleep(self.poll)
        self._check_usable(tasks, found, needed)
        return found

    def _check_usable(self, tasks: Mapping[int, ClientTask], found: Mapping[int, Update], needed: int) -> None:
        """UserError if too few updates came back. Answers with a problem that the server can cure count."""
        usable = [c for c, update in found.items() if update.payload is not None or c in self._curable]
        if len(usable) >= needed:
            return
        t = next(iter(tasks.values())).t
        for client in tasks:
            problem = found[client].problem if client in found else "no answer"
            if client not in usable:
                _log.warning("round %d: client %d: %s", t + 1, client, problem)
        raise self._too_few(t, len(usable), len(tasks), "gave a usable answer")

    def _update(self, task: ClientTask, message: Message) -> Update:
        """A node's answer, or why it does not answer the task."""
        client = task.client
        try:
            answer, payload = answer_of(message, self._most)
        except BadRecord as error:
            return Update(client, None, str(error))
        if answer.run != self._run:
            return Update(client, None, f"run: expected {self._run}, but the answer is for {answer.run}")
        if (answer.client, answer.t) != (client, task.t):
            return Update(
                client,
                None,
                f"round: expected client {client} in {task.t + 1}, but got client {answer.client} in {answer.t + 1}",
            )
        if answer.lost:
            self._last.pop(client, None)
        if payload is None:
            if not answer.unable:
                self._curable.add(client)
            return Update(client, None, answer.problem)
        self._last[client] = task.t
        _log.debug("client %d: start %.2f s, train %.2f s", client, answer.start, answer.train)
        return Update(client, payload, None, Timings(answer.decode, answer.train, answer.encode), Kept())

    # ---- checkpoint --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The round from which each client's state continues."""
        self._told = dict(self._last)
        return {"run": self._run, "last": dict(self._last)}

    def saved(self) -> None:
        """From now on clients need to keep nothing older than the checkpoint."""
        self._saved = self._told

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned. UserError if the run was simulated."""
        if "run" not in state:
            raise UserError("the clients of this run were simulated: resume it with its own engine, not with flower")
        self._run, self._last = state["run"], dict(state["last"])
        self._saved = self._told = dict(self._last)
