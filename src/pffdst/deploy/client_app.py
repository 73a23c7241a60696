"""Flower's ClientApp: a process that starts for every message, answers it and ends.

A node's operator sets (`flower-supernode --node-config`): `data`, the node's samples; `state`, the node's own folder;
`allow`, further packages, modules and classes, separated by spaces, that a run's configuration may name; `warm`, the
seconds without a task after which the node's worker ends (600; 0 for no worker); `tell="counts"`, which lets the server
ask for the number of samples per class.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from pffdst.core.errors import UserError
from pffdst.deploy.records import Answer, BadRecord, printable, reply, task_of
from pffdst.deploy.survey import decline, is_survey, tell
from pffdst.deploy.warm import hand_over

__all__ = ["app"]

_BEGAN: Final = time.time()
_WARM: Final = 600.0
_UNKNOWN: Final = 0  # Flower's code of an error of no kind of its own

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """A client's work in a round, in the node's worker or, without one, in this process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        task, payload, setup = task_of(message)
    except BadRecord as error:  # of another version, whose answer cannot be written
        return Message(Error(_UNKNOWN, printable(str(error))), reply_to=message)
    try:
        request = {"state": _setting(context, "state"), "data": _data(context), "allow": _allow(context)}
        warm = _warm(context)
    except UserError as error:
        return reply(message, Answer(task.run, task.client, task.t, problem=printable(str(error)), unable=True), None)
    found = hand_over({"task": vars(task), **request}, setup, payload, warm)
    if found is None:
        from pffdst.deploy.node import Turns  # seconds of imports

        found = Turns().play(task, setup, payload, **request)
    answer, update = found
    whole = answer.start if answer.problem else time.time() - _BEGAN - answer.decode - answer.train - answer.encode
    return reply(message, replace(answer, start=whole), update)


@app.query()  # type: ignore[untyped-decorator]
def query(message: Message, context: Context) -> Message:
    """A sign of life, or what the operator lets this node report about its samples."""
    if is_survey(message):
        if str(context.node_config.get("tell", "")) != "counts":
            return decline(message)
        try:
            return tell(message, Path(_data(context)), Path(_setting(context, "state")) / "cache")
        except UserError as error:
            return decline(message, str(error))
    return Message(RecordDict({"alive": ConfigRecord({"node": context.node_id})}), reply_to=message)


def _data(context: Context) -> str:
    path = _setting(context, "data")
    if not Path(path).exists():
        raise UserError(f"this node's data, {path}, do not exist: restart it with --node-config 'data=\"PATH\" ...'")
    return path


def _setting(context: Context, key: str) -> str:
    value = context.node_config.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"this node has no path for {key}: start it with --node-config '{key}=\"PATH\"'")
    return str(Path(value).expanduser())


def _allow(context: Context) -> str:
    value = context.node_config.get("allow", "")
    if not isinstance(value, str):
        raise UserError(
            f"this node's allow={value!r}: expected the names of packages; write e.g. "
            "--node-config 'allow=\"mine.models.\"'"
        )
    return value


def _warm(context: Context) -> float:
    value = context.node_config.get("warm", _WARM)
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"this node's warm={value!r}: expected seconds; write e.g. --node-config 'warm=600'")
    return seconds
