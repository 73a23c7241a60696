"""What a method does besides local training: the one interface of every rule, at the server and in a client's turn.

The server has one rule object, and every client has an equal one, made from the same configuration. Only the server's
keeps state. A run has two rules: the group `readjust` moves masks, the group `updates` changes how clients train and
what their updates are. Both are instances of this class, and every hook is called for both.

A round t, in the order of the calls (server and client only exchange bytes):

    server   start (at a stage's start), else before_round   -> the mask of the round
             broadcast                                       -> what is sent with the model
    client   begin                                           after the model is loaded
             before_step, after_backward, shape_gradient_     in every local step
             epoch_end                                       after every epoch
             measure                                         after the last, on the device that holds the gradient
             answer                                          on the host: the model, the signals and what it keeps
    server   observe                                         for each accepted update, as it arrives
             after_round                                     on the mean: the next model

Rounds before round 0 (`warm_up` of them) have t = -warm_up .. -1, their own cohorts and no local training, unless
`epochs` says so; their costs count like those of any other round. Each starts with the initial model, either dense or
as the warming-up rule's `before_round` makes it for that round only. Of what clients train in it, they only send their
signals.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, final

from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.inputs import Inputs
from pffdst.core.masks import Move, room_left
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals
from pffdst.methods.allocation import divided

if TYPE_CHECKING:
    from torch import nn

    from pffdst.methods.local import LocalTraining

__all__ = ["Absent", "Answer", "Chosen", "ClientTurn", "Cohort", "Rule", "Signal", "Signals", "Start", "touches_steps"]

Absent = Literal["left_out", "zero", "unchanged"]


# ---- a client's side -----------------------------------------------------------------------------------------------


class ClientTurn(Protocol):
    """One client's turn as a rule sees it: what the client knows, and its network while it trains.

    `start` is the model that arrived, `received` the rule's own signals sent with it, `memory` what this client's rule
    kept at the end of its last turn ({} at first). `steps` (B) is the number of local steps of the turn and `step` (b)
    counts them from 0. `scratch` is for the rule's own use, from `begin` to `measure`; nothing else touches it.

    Tensors of the network are on its device, in the module's own shapes and memory format: `weights` are the maskable
    ones, `parameters` all trained ones.
    """

    client: int
    t: int
    stage: Stage
    rounds: int
    samples: int
    epochs: int
    steps: int
    step: int
    start: GlobalModel
    received: Signals
    memory: Mapping[str, Tensor]
    scratch: dict[str, Any]

    @property
    def lr(self) -> float:
        """The learning rate now."""
        ...

    @property
    def first_lr(self) -> float:
        """The learning rate of round 0."""
        ...

    @property
    def stage_seed(self) -> int:
        """The seed of the stage's first draw, which the server knows as `Start.seed`."""
        ...

    @property
    def layout(self) -> Layout:
        """The order of the tensors."""
        ...

    @property
    def network(self) -> nn.Module:
        """The client's network."""
        ...

    @property
    def weights(self) -> list[Tensor]:
        """The maskable tensors, in the layout's order."""
        ...

    @property
    def parameters(self) -> list[Tensor]:
        """All trained tensors, maskable ones first."""
        ...

    @property
    def trainable(self) -> Positions:
        """What may change in this turn."""
        ...

    def train_on(self, trainable: Positions) -> None:
        """From now on only these positions may change; those that leave become 0, new ones start at 0.

        Momentum is reset at the positions that moved. Frozen positions must not be included.
        """
        ...

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate from this step on."""
        ...

    def values(self) -> Tensor:
        """The network's current maskable weights, flat [W] in the layout's order, on the network's device."""
        ...

    def batches(self, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch of the client's samples in the order of the draw named `stream`, on the network's device.

        Batches are raw samples (e.g. images uint8 [b, C, H, W]) and labels int64 [b], without augmentation.
        """
        ...

    def batch(self, stream: str = "probe") -> tuple[Tensor, Tensor]:
        """The first of these batches."""
        ...

    def undisturbed(self, *, training: bool = True) -> AbstractContextManager[None]:
        """Inside, the network is in training or inference mode and has no gradients.

        Mode and running statistics are restored afterwards; weights and parameters are not.
        """
        ...

    def loss(self, batch: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
        """The mean loss of a batch at the current weights, with the outputs divided by `temperature`.

        Without weight decay or proximal term. For use inside `undisturbed`.
        """
        ...

    def gradient(self, stream: str = "probe", *, training: bool = True) -> Tensor:
        """The dense gradient of the batch of `stream` at the current weights, flat [W], on the network's device.

        Without weight decay, proximal term or clipping; in training or inference mode. Running statistics are restored.
        """
        ...

    def generator_seed(self, stream: str) -> int:
        """The seed of a named draw of this client in this round."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Answer:
    """The result of a client's turn.

    `model` is what it sends; `own_mask` says that its trainable positions are the client's own and are sent too.
    `signals` are those the rule declared for the round; `memory` is what the client keeps until its next turn.
    """

    model: GlobalModel
    own_mask: bool = False
    signals: dict[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)


# ---- the server's side ---------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Start:
    """What a stage starts with, for rules that choose its first mask themselves.

    `model` is the model before the stage, `stage.counts` are its trainable weights per layer (k_l), `density` is 1 - s,
    and `seed` names the draw of the stage. `network` is a copy of the run's own, `inputs` describes its samples.
    """

    model: GlobalModel
    stage: Stage
    density: float
    seed: int
    network: nn.Module | None = None
    inputs: Inputs | None = None


@final
@dataclass(frozen=True, eq=False)
class Cohort:
    """What `after_round` is told about a round's accepted updates.

    `mean` holds the union of the clients' positions; `support` [A] counts, in its order, the samples of the clients
    that hold each alive position (or the clients, if all have equal weight); `samples` is the sum over all accepted
    clients, `clients` their number and `population` that of all clients (C). `before` is the model that was sent;
    `sent` is what clients decoded, if a lossy codec made that different. `total` is the support where every client
    holds a position.
    """

    mean: GlobalModel
    support: Tensor
    samples: int
    clients: int
    before: GlobalModel
    sent: GlobalModel | None = None
    population: int = 0
    total: float = 0.0

    @property
    def received(self) -> GlobalModel:
        """The model that clients started from."""
        return self.before if self.sent is None else self.sent


class Rule(ABC):
    """A method's rule. Every hook has a default that does nothing: off is the same as absent.

    Frozen weights are never candidates and every count is exact. `absent` says how the mean treats a position that a
    client of the cohort does not hold: `left_out` (the mean is over holders), as `zero`, or as `unchanged`, the value
    that was sent. `derives_start`: for the first stage `start` only needs the configuration and the initial model, so
    clients derive its positions themselves and they are not sent. With `sends_changes` clients keep the weights that
    they were sent, and are only sent those that changed since their last download; the model is dense, and what is not
    trained is frozen for the time being. With `starts_anew` the first stage starts with reinitialised weights, from a
    different draw than the run's first. With `begins_dense` the initial model is scored or sent whole, so that no layer
    has a density yet that `sparse_init=auto` could scale it to. `keeps_density`: a run ends with the requested number
    of alive weights. `any_length`: what the rule does in a round depends on the lengths of the stage and of the run
    only through its `schedule`, so that a run can be given more rounds.
    """

    absent: ClassVar[Absent] = "left_out"
    derives_start: ClassVar[bool] = False
    keeps_density: bool = True
    sends_changes: bool = False
    starts_anew: ClassVar[bool] = False
    begins_dense: ClassVar[bool] = False
    any_length: ClassVar[bool] = False
    warm_up: int = 0

    # ---- stages ----------------------------------------------------------------------------------------------------

    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """Trainable weights per layer when the stage starts, as far as what `model` holds frozen leaves room."""
        room = room_left(model)
        fits = all(k <= r for k, r in zip(stage.counts, room, strict=True))
        return stage.counts if fits else divided(stage.counts, room, sum(stage.counts))

    def start(self, given: Start) -> Move | Positions | GlobalModel | None:
        """The trainable positions of a stage's first round; None for a random draw of `start_counts`.

        Returning a whole model also sets the values.
        """
        return None

    def exploration_end(self, stage: Stage) -> int:
        """R_end: the first round from which the stage's mask is fixed."""
        return stage.start

    # ---- server ----------------------------------------------------------------------------------------------------

    def cohort_size(self, t: int, clients: int, cohort: int) -> int:
        """How many clients take part in round t; only called for warm-up rounds."""
        return cohort

    def before_round(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | GlobalModel | None:
        """The mask's change at the start of round t, on the aggregated model; `seed` names the round's draw.

        A `Move` costs few bytes; a model is any other change. Grown weights start from 0. Not called in a stage's first
        round. In rounds before round 0 `model` is the initial one, and a newly drawn mask keeps its values.
        """
        return None

    def down(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """What is sent to clients with the model in round t."""
        return ()

    def broadcast(self, model: GlobalModel, stage: Stage, t: int) -> Signals:
        """The signals that `down` declares."""
        return {}

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """What clients send besides their update in round t."""
        return ()

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """Whether clients send masks of their own in round t.

        `layers`: with as many weights per layer as they were sent; `any`: any mask without frozen weights.
        """
        return None

    def asks(self, stage: Stage, t: int) -> bool:
        """Whether round t tells the server more about individual clients than the mean of their updates."""
        observes = type(self).observe is not Rule.observe
        return observes or bool(self.up(stage, t)) or self.own_masks(stage, t) is not None

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Called for each accepted update as it arrives: `model` is what the client trained, under its own mask."""

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The next model, from the mean of the round's updates."""
        return cohort.mean

    def effective(self, model: GlobalModel) -> GlobalModel:
        """The model as it is used, if what is trained and sent is a parametrisation of it."""
        return model

    def state_dict(self) -> dict[str, Any]:
        """What the server's rule keeps between rounds: tensors and plain values, for the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""

    # ---- client ----------------------------------------------------------------------------------------------------

    def epochs(self, t: int, epochs: int) -> int:
        """Local epochs of round t in a run with `epochs` (E); 0 before round 0, where clients only answer."""
        return epochs if t >= 0 else 0

    def begin(self, turn: ClientTurn) -> None:
        """The model is loaded; no step has been taken."""

    def before_step(self, turn: ClientTurn) -> None:
        """A step is about to begin."""

    def after_backward(self, turn: ClientTurn) -> None:
        """The gradients are those of the loss only, dead weights included; clipping, decay and the rest come next."""

    def shape_gradient_(self, turn: ClientTurn) -> None:
        """The gradients contain loss, decay and proximal term; masks come next."""

    def epoch_end(self, turn: ClientTurn, epoch: int) -> None:
        """An epoch is over; `epoch` counts from 0. Not called after the last one."""

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """After the last step, on the device: small tensors or `Positions` that `answer` needs on the host."""
        return {}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """What the client sends, given what it trained and what was measured. A pure function, run on the host."""
        return trained

    def probes(self, stage: Stage, t: int) -> int:
        """How many dense gradient batches a client computes in round t besides its steps, for counting FLOPs."""
        return 0

    def forwards(self, layout: Layout, stage: Stage, t: int, seed: int) -> Sequence[Sequence[int]]:
        """The alive weights per layer of each batch only passed forward, for counting FLOPs; `seed` is `Start.seed`."""
        return ()

    def dense_steps(self, stage: Stage, t: int) -> bool:
        """Whether local steps also compute the gradients of dead weights, for counting FLOPs."""
        return False

    # ---- what can be checked in advance ----------------------------------------------------------------------------

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """What a user should know about stages of these lengths (rounds), even if they can be run."""
        return []

    def problems(self, facts: Facts) -> list[str]:
        """Why stages of `facts.stage_lengths` rounds cannot be run, one sentence per problem."""
        return []

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """Conflicts with the clients' local training or the run's `other` rule, one sentence each."""
        return []


_IN_STEPS = ("begin", "before_step", "after_backward", "shape_gradient_", "epoch_end")


def touches_steps(rule: Rule) -> bool:
    """Whether a rule acts within steps: an engine that records steps then runs its clients unrecorded.

    This includes rules that move masks or change the network before or between steps: a recording keeps those that it
    started with.
    """
    return any(getattr(type(rule), name) is not getattr(Rule, name) for name in _IN_STEPS)
