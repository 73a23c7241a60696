"""Client-level differential privacy: DP-FedAvg with clipping at the server, Gaussian noise and an accountant."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

from pffdst.core.errors import UserError
from pffdst.core.facts import Facts
from pffdst.core.model import GlobalModel
from pffdst.core.seeding import derive_seed, hidden_normals
from pffdst.data.csv_table import content_of, file_of
from pffdst.methods.aggregation import Aggregation, Aggregator, RunningMean, Statistics
from pffdst.methods.bounds import MAX_VALUE, Bounds
from pffdst.methods.poisson import Poisson
from pffdst.methods.rule import Absent, Cohort

__all__ = ["PrivateMean", "epsilon"]

_LARGE_ORDERS: Final = (80, 96, 128, 192, 256, 384, 512, 768, 1024)
_LEAST_SECRET: Final = 16  # bytes
_HOW: Final = "head -c 32 /dev/urandom > FILE"


@final
@dataclass(frozen=True)
class PrivateMean(Aggregation):
    """DP-FedAvg (McMahan, Ramage, Talwar, Zhang: Learning differentially private recurrent language models, 2018).

    w <- w + (1 / (q W)) sum_k Delta_k min(1, S / ||Delta_k||) + N(0, (z S / (q W))^2) at every trained position: the
    fixed-denominator estimator f_f with weights w_k = 1, so W = C and q W = K, however many answer. S is `max_norm`, z
    is `noise`. Delta_k is the change of a client's trainable weights and parameters in this round; statistics and
    buffers stay the server's. Neighbouring populations differ in one client, and the cohort is a Poisson sample.

    Noise and cohorts are drawn from the bytes of the file `secret` and the run's seed, and hide nothing from those who
    know both. Without a secret they are drawn from the seed alone, which clients and readers of the model's file know.
    """

    max_norm: float
    noise: float
    delta: float
    max_value: float | None = MAX_VALUE
    statistics: Statistics = "keep_server"
    secret: str | None = None
    discloses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.statistics != "keep_server":
            raise ValueError(
                "Expected `aggregation.statistics` to be keep_server, because the noise covers what is trained but not "
                f"clients' statistics, but got {self.statistics!r}"
            )
        for name in ("max_norm", "noise"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Expected `aggregation.{name}` to be above 0, but got {getattr(self, name)}")
        if not 0 < self.delta < 1:
            raise ValueError(f"Expected `aggregation.delta` to be in (0, 1), but got {self.delta}")
        _ = self.bounds

    @property
    def bounds(self) -> Bounds:
        """Every update has a norm of at most S."""
        return Bounds(max_value=self.max_value, max_norm=self.max_norm)

    def weight(self, samples: int) -> int:
        """All clients weigh the same."""
        return 1

    def own_seed(self, seed: int) -> int:
        """A seed from the secret and the run's; without a secret the run's."""
        if self.secret is None:
            return seed
        key = hashlib.blake2b(self._secret_bytes, digest_size=32, person=b"private mean").digest()
        return derive_seed(int.from_bytes(key, "little"), "private", seed)

    @functools.cached_property
    def _secret_bytes(self) -> bytes:
        """UserError if the file cannot be read, or has too few bytes for a secret."""
        assert self.secret is not None
        try:
            found = file_of(self.secret).read_bytes()
        except OSError as error:
            raise UserError(
                f"aggregation.secret: {self.secret} cannot be read ({error.strerror}); make one with {_HOW}"
            ) from error
        if len(found) < _LEAST_SECRET:
            raise UserError(
                f"aggregation.secret: {self.secret} has {len(found)} bytes, which can be guessed; make one with {_HOW}"
            )
        return found

    @property
    def content(self) -> str:
        """A digest of the secret, which does not give it away; empty if there is none."""
        return "" if self.secret is None else content_of(file_of(self.secret))

    def begin(self, model: GlobalModel, absent: Absent) -> Aggregator:
        """The plain mean of the answers; `finish` turns it into the private mean."""
        return RunningMean(model, absent, "clients")

    def finish(self, found: Cohort | None, sent: GlobalModel, expected: int, seed: int) -> Cohort:
        """1 / K of the sum, plus noise, which is added even in a round without any update."""
        share = 0.0 if found is None else found.clients / expected
        mean = sent if found is None else found.mean
        trained, rest = (
            was.double() + share * (now.double() - was.double())
            for was, now in ((sent.trained, mean.trained), (sent.rest, mean.rest))
        )
        parameters = rest[: sent.layout.rest[0]]
        noise = self.noise * self.max_norm / expected * hidden_normals(len(trained) + len(parameters), seed)
        trained += noise[: len(trained)]
        parameters += noise[len(trained) :]
        model = sent.with_trained(trained.to(sent.dtype), rest.to(sent.dtype))
        support = (~sent.alive_at.inside(sent.frozen_at)).double() * expected
        return Cohort(model, support, expected, expected, sent, total=expected)

    def figures(self, rounds: int, clients: int, cohort: int) -> Mapping[str, float]:
        """epsilon after so many rounds at `delta`, for cohorts of K of C clients on average."""
        spent = epsilon(cohort / clients, self.noise, max(rounds, 0), self.delta)
        return {"privacy/epsilon": spent, "privacy/delta": self.delta}

    def remarks(self, absent: Absent) -> list[str]:
        """Without a secret, epsilon is that of a simulation."""
        if self.secret is not None:
            return []
        return [
            "aggregation=private_mean has no secret: noise and cohorts are drawn from `seed`, which the model's file "
            f"and every client know, so epsilon only holds in simulation; for real data, {_HOW}, then write "
            "aggregation.secret=FILE"
        ]

    # ---- what can be checked in advance ------------------------------------------------------------------------------

    def problems(self, facts: Facts) -> list[str]:
        """The accountant is a separate library, and delta must suit C clients."""
        found = []
        if self.secret is not None:
            try:
                _ = self._secret_bytes
            except UserError as error:
                found.append(str(error))
        if importlib.util.find_spec("opacus") is None:
            found.append("aggregation=private_mean needs opacus for its accountant: pip install 'pffdst[privacy]'")
        if facts.clients is not None and self.delta >= 1 / facts.clients:
            found.append(
                f"aggregation.delta={self.delta} guarantees nothing for {facts.clients} clients: write a value below "
                f"{1 / facts.clients:g}, e.g. aggregation.delta={0.1 / facts.clients:g}"
            )
        return found

    def problems_among(self, parts: Mapping[str, Any]) -> list[str]:
        """The cohort must be drawn as the accountant assumes."""
        drawn = parts.get("participation", Poisson())
        told = "aggregation=private_mean needs clients that take part"
        if not isinstance(drawn, Poisson):
            return [f"{told} each with probability cohort/clients: write participation=poisson"]
        more = {
            "extra=0": drawn.extra > 0,
            "trace=null": drawn.trace is not None,
            "deadline=null": drawn.closes is not None,
        }
        return [
            f"{told} no more often than cohort/clients: write participation.{setting}"
            for setting, is_so in more.items()
            if is_so
        ]


@functools.lru_cache(maxsize=4096)
def epsilon(rate: float, noise: float, rounds: int, delta: float) -> float:
    """epsilon of `rounds` Gaussian mechanisms of multiplier z = `noise` on Poisson samples of `rate` q, at `delta`.

    By Renyi differential privacy, with the orders that opacus' own accountant uses and larger ones, without which no
    epsilon is much below 0.1. 0 before the first round, and where delta covers so much that the conversion gives less.
    """
    if rounds == 0:
        return 0.0
    from opacus.accountants.analysis import rdp

    orders = _orders()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the first or last order: it gives a bound, too
        spent, _ = rdp.get_privacy_spent(orders=orders, rdp=_per_round(rate, noise) * rounds, delta=delta)
    return max(0.0, float(spent))


def _orders() -> list[float]:
    from opacus.accountants import RDPAccountant

    return [*RDPAccountant.DEFAULT_ALPHAS, *_LARGE_ORDERS]


@functools.lru_cache(maxsize=64)
def _per_round(rate: float, noise: float) -> Any:
    from opacus.accountants.analysis import rdp

    return rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_orders())
