"""The processes that torchrun starts for one run: bytes between rank 0 and the others, and detection of lost ranks.

Rank 0 has a link to every other rank. A link carries int64 headers: the length of a message, which follows as uint8,
or BEAT, sent so often that silence means that the other end hangs, or BYE. A thread per link reads all the time, so
that the end of a rank's process is noticed at once. Everything uses gloo on the CPU, also on machines with GPUs, since
only bytes are sent. The groups are created directly: with torch.distributed's default group, libraries that find it
(such as metrics) would take the ranks for replicas and wait for each other inside a client.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from pffdst.core.errors import LostError, UserError

__all__ = ["RankLostError", "Ranks", "current", "join", "silence"]

BEAT: Final = -1
BYE: Final = -2
TIMEOUT: Final = "PFFDST_RANK_TIMEOUT"
_MOMENT: Final = 2.0  # seconds that a follower waits before it obeys SIGTERM, lest rank 0 take it for dead
_UNREAD: Final = 16  # a rank's messages that wait in memory until they are received; it blocks on the next
_LONG = datetime.timedelta(days=7)
_START = datetime.timedelta(minutes=5)


class RankLostError(LostError):
    """The run must stop because another rank died or hangs, or this process was asked to stop."""


@final
class Link:
    """The connection to one other rank.

    `ended` is called in the link's thread: with the reason if the other end is lost, None if it sent BYE.
    """

    def __init__(self, peer: int, group: Any, silence: float, ended: Callable[[Link, str | None], None]) -> None:
        self.peer = peer
        self.name = f"rank {peer}"
        self.inbox: queue.Queue[bytes] = queue.Queue(_UNREAD)
        self._group, self._ended = group, ended
        self._silence = silence
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"rank {peer}", daemon=True)

    def open(self) -> None:
        """Starts reading."""
        self._reader.start()

    def send(self, message: bytes | memoryview) -> None:
        """Sends a message; returns when the other end has received it. RuntimeError if the other end is gone."""
        import torch

        body = _tensor(message) if len(message) else None
        with self._sending:
            self._put(torch.tensor([len(message)]))
            if body is not None:
                self._put(body)

    def signal(self, header: int) -> None:
        """Sends BEAT or BYE."""
        import torch

        with self._sending:
            self._put(torch.tensor([header]))

    def join(self, seconds: float) -> None:
        """Waits for the other end's BYE."""
        self._reader.join(seconds)

    def _put(self, tensor: Any) -> None:
        self._group.send([tensor], int(self.peer != 0), 0).wait(_LONG)

    def _take(self, tensor: Any) -> Any:
        self._group.recv([tensor], int(self.peer != 0), 0).wait(datetime.timedelta(seconds=self._silence))
        return tensor

    def _read(self) -> None:
        """The thread: reads until the other end sends BYE or is gone."""
        import torch

        try:
            while (header := int(self._take(torch.empty(1, dtype=torch.int64)))) != BYE:
                if header >= 0:
                    body = torch.empty(header, dtype=torch.uint8)
                    self.inbox.put(self._take(body).numpy().tobytes() if header > 0 else b"")
        except RuntimeError as error:
            silent = "timed out" in str(error).lower()
            self._ended(self, f"has been silent for {self._silence:g} s" if silent else "died")
        else:
            self._ended(self, None)


@final
class Ranks:
    """This process and the others of its run. `beside` of them, including this one, are on this machine."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        from torch.distributed.rendezvous import rendezvous

        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.beside = int(environment.get("LOCAL_WORLD_SIZE", 1))
        self._silence = silence(environment)
        self._why: str | None = None
        self._noticed, self._closing = threading.Event(), threading.Event()
        store = next(rendezvous("env://", timeout=_START))[0]
        self._all = _group(store, "all", self.rank, self.size)
        # one group per link: in gloo a timeout breaks every connection of its group
        peers = range(1, self.size) if self.rank == 0 else (0,)
        groups = {peer: _group(store, f"link{self.rank + peer}", int(self.rank != 0), 2) for peer in peers}
        self.links = {peer: Link(peer, group, self._silence, self._ended) for peer, group in groups.items()}

    def open(self) -> None:
        """Starts to listen and, on rank 0, to handle SIGTERM, which torchrun sends when any rank has failed."""
        for link in self.links.values():
            link.open()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        if self.rank != 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is rank 0's to handle
            signal.signal(signal.SIGTERM, _end_in_a_moment)
            self.links[0].send(f"rank {self.rank} ({socket.gethostname()}, pid {os.getpid()})".encode())
            return
        signal.signal(signal.SIGTERM, self._told_to_end)
        for peer, link in self.links.items():
            link.name = self.receive(peer).decode()

    @property
    def broken(self) -> bool:
        """Whether a rank was lost."""
        return self._why is not None

    def receive(self, peer: int) -> bytes:
        """Waits for the next message of a rank."""
        return self.links[peer].inbox.get()

    def waiting(self, peer: int) -> bool:
        """Whether a message of a rank has arrived."""
        return not self.links[peer].inbox.empty()

    def send(self, peer: int, message: bytes | memoryview) -> None:
        """Sends a message to one rank. Raises RankLostError if it is gone."""
        try:
            self.links[peer].send(message)
        except RuntimeError as error:
            raise self._lost() from error

    def broadcast(self, message: bytes | memoryview | None, size: int) -> bytes:
        """Sends `size` bytes from rank 0 to all ranks; the others pass None. Raises RankLostError if one is gone."""
        import torch
        from torch.distributed import BroadcastOptions

        tensor = torch.empty(size, dtype=torch.uint8) if message is None else _tensor(message)
        try:
            options = BroadcastOptions()
            options.rootRank, options.rootTensor, options.timeout = 0, 0, _LONG
            work = self._all.broadcast([tensor], options)
            while not work.is_completed():
                time.sleep(0.0005)  # not inside a call that would delay SIGTERM
            work.wait()
        except RuntimeError as error:
            raise self._lost() from error
        return b"" if message is not None else tensor.numpy().tobytes()

    def close(self) -> None:
        """On rank 0: tells the others that it ends, so that they end too."""
        self._closing.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for link in self.links.values():
            try:
                link.signal(BYE)
            except RuntimeError:
                continue  # it is gone already
        for link in self.links.values():
            link.join(5.0)

    # ---- lost ranks ----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._closing.wait(self._silence / 5):
            for link in self.links.values():
                try:
                    link.signal(BEAT)
                except RuntimeError:
                    continue  # its reader reports it too

    def _ended(self, link: Link, why: str | None) -> None:
        """A link broke (`why`), or the other end sent BYE."""
        if self.rank == 0:
            if not self._closing.is_set() and self._why is None:
                self._why = f"{link.name} {why or 'ended before the run'}"
                self._noticed.set()
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return
        # A follower has nothing to save: it ends here, even in the middle of a step.
        if why is None:
            with contextlib.suppress(RuntimeError):  # rank 0 does not wait for it forever
                link.signal(BYE)
        elif self.rank == 1:
            print(f"rank 0, which owns the run, {why}: all ranks stop. {HOW}", file=sys.stderr, flush=True)
        os._exit(0 if why is None else 1)

    def _told_to_end(self, number: int, frame: Any) -> None:
        """SIGTERM, from torchrun or our own link's thread. Only once, so that saving is not interrupted."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise self._lost()

    def _lost(self) -> RankLostError:
        """Why the run stops; if torchrun notices it first, the link's thread will know in a moment."""
        self._noticed.wait(_MOMENT / 2)
        return RankLostError(f"{self._why or 'This process was asked to stop (SIGTERM)'}: all ranks stop.")


HOW: Final = "Write resume=FOLDER with the run's folder to resume its last checkpoint, with any number of ranks."

_current: Ranks | None = None


def join(environment: Mapping[str, str] = os.environ) -> Ranks | None:
    """Joins the other ranks if torchrun started this process as one of several; otherwise None."""
    global _current
    if int(environment.get("WORLD_SIZE", 1)) > 1 and "RANK" in environment:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(environment.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        _current = Ranks(environment)
        _current.open()
    return _current


def current() -> Ranks | None:
    """This process's ranks; None if it is the only process."""
    return _current


def _end_in_a_moment(number: int, _frame: Any) -> None:
    """SIGTERM in a follower: if rank 0 is the cause, the link's thread ends it first, with a message."""
    time.sleep(_MOMENT)
    os._exit(128 + number)


def _group(store: Any, name: str, rank: int, size: int) -> Any:
    from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo

    return ProcessGroupGloo(PrefixStore(f"pffdst/{name}", store), rank, size, _START)


def silence(environment: Mapping[str, str], name: str = TIMEOUT) -> float:
    """Seconds after which a silent process counts as lost, from the environment; 60 by default."""
    given = environment.get(name, "60")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise UserError(f"{name}={given}: expected seconds above 0; write e.g. {name}=60")
    return seconds


def _tensor(message: bytes | memoryview) -> Any:
    from pffdst.core.blobs import tensor_of  # imports torch, which checking the command line does not need

    return tensor_of(message)
