"""How a run is stopped: Ctrl-C, SIGTERM (which a cluster sends before it reclaims the machine) and SIGHUP.

The first signal lets a round that is nearly over finish, but no other work; a second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, final

from pffdst.core.errors import UserError

__all__ = ["PATIENCE", "Ended", "ending_well", "listen", "may_finish", "stop_if_told"]

PATIENCE: Final = 3.0  # seconds that a round may take to end

_told: int | None = None
_patient = False


@final
class Ended(KeyboardInterrupt):
    """The process was stopped by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def listen() -> None:
    """Handles the signals from now on. Those ignored when the process started (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _hear)


@contextmanager
def may_finish() -> Iterator[None]:
    """Inside, a signal waits PATIENCE seconds for `stop_if_told` before it interrupts the work."""
    global _patient
    _patient = hasattr(signal, "setitimer")
    try:
        yield
    finally:
        _patient = False


@contextmanager
def ending_well(save: Callable[[], None]) -> Iterator[None]:
    """Around a run's rounds: whatever ends them, `save` keeps the finished ones, and a signal is raised as Ended."""
    with may_finish():
        try:
            yield
        except BaseException:
            with suppress(OSError, UserError):
                save()
            stop_if_told()  # libraries turn it into exceptions of their own
            raise


def stop_if_told(save: Callable[[], None] | None = None) -> None:
    """Raises Ended, after `save`, if a signal has arrived."""
    if _told is not None:
        if save is not None:
            save()
        _disarm()
        raise Ended(_told)


def _hear(number: int, _frame: Any) -> None:
    global _told
    if _told is not None:
        sys.stderr.write("\nStopped at once.\n")
        sys.stderr.flush()
        os._exit(128 + number)
    _told = number
    if not _patient:
        raise Ended(number)
    sys.stderr.write(f"\nStopping: this round has at most {PATIENCE:g} s to finish; signal again to stop at once.\n")
    signal.signal(signal.SIGALRM, _overdue)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)


def _overdue(_number: int, _frame: Any) -> None:
    stop_if_told()


def _disarm() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0.0)
