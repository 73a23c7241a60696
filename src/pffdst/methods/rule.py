"""What a method does beside local training: the one interface of every rule, at the server and in a client's turn.

A rule object stands at the server and an equal one, made from the same configuration, at every client. Only the
server's keeps state. A run has two rules: the group `readjust` moves masks, the group `updates` changes what a client's
training and its update are. Both are this class, and every hook is called for both.

A round t, in the order of the calls (server and client are joined by bytes alone):

    server   start (at a stage's start), else before_round   -> the mask of the round
             broadcast                                       -> what travels down beside the model
    client   begin                                           after the model is loaded
             before_step, after_backward, shape_gradient_     in every local step
             epoch_end                                       after every epoch
             measure                                         after the last, on the device where the gradient lies
             answer                                          on the host: the model, the signals and what it keeps
    server   observe                                         for each accepted update, as it comes
             after_round                                     on the mean: the next model

Rounds before round 0 (`warm_up` of them) have t = -warm_up .. -1, cohorts of their own and no local training, unless
`epochs` says so; they are billed like any other. Each begins with the initial model, dense or as `before_round` of a
rule that warms up makes it for that round alone; what clients train in it stays with them but for their signals.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, final

from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.inputs import Inputs
from pffdst.core.masks import Move
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal, Signals

if TYPE_CHECKING:
    from torch import nn

    from pffdst.methods.local import LocalTraining

__all__ = ["Absent", "Answer", "Chosen", "ClientTurn", "Cohort", "Rule", "Signal", "Signals", "Start"]

Absent = Literal["left_out", "zero", "unchanged"]


# ---- a client's side -----------------------------------------------------------------------------------------------


class ClientTurn(Protocol):
    """One client's turn as a rule sees it: what the client knows, and its network while it trains.

    `start` is the model that arrived, `received` the rule's own signals beside it, `memory` what this client's rule
    kept at the end of its last turn ({} at first). `steps` (B) is the number of local steps of the turn and `step` (b)
    counts them from 0. `scratch` is the rule's own, from `begin` to `measure`; it is nobody else's business.

    Tensors of the network lie on its device in the module's own shapes and memory format: `weights` are
    the maskable ones, `parameters` all that train.
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
        """All tensors that train, maskable ones first."""
        ...

    @property
    def trainable(self) -> Positions:
        """What may change in this turn."""
        ...

    def train_on(self, trainable: Positions) -> None:
        """From now on these positions may change, and no others; what leaves becomes 0, what is new starts at 0.

        Momentum begins anew at the places that moved. Frozen positions must not be among them.
        """
        ...

    def set_lr(self, lr: float) -> None:
        """The learning rate from this step on."""
        ...

    def values(self) -> Tensor:
        """The network's maskable weights now, flat [W] in the layout's order, on the network's device."""
        ...

    def batches(self, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch of the client's samples in the order of the draw named `stream`, on the network's device.

        Batches of raw samples (images uint8 [b, C, H, W], say) and labels int64 [b], not augmented.
        """
        ...

    def batch(self, stream: str = "probe") -> tuple[Tensor, Tensor]:
        """The first of these batches."""
        ...

    def undisturbed(self, *, training: bool = True) -> AbstractContextManager[None]:
        """Inside, the network is in training or in inference mode and has no gradients.

        Mode and running statistics are put back afterwards; weights and parameters are not.
        """
        ...

    def loss(self, batch: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
        """The mean loss of a batch at the present weights, with the outputs divided by `temperature`.

        Without decay or proximal term. For use inside `undisturbed`.
        """
        ...

    def gradient(self, stream: str = "probe", *, training: bool = True) -> Tensor:
        """The dense gradient of the batch of `stream` at the present weights, flat [W], on the network's device.

        Without decay, proximal term or clipping; in training or in inference mode. Running statistics are put back.
        """
        ...

    def generator_seed(self, stream: str) -> int:
        """The seed of a named draw of this client in this round."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Answer:
    """What a client makes of its turn.

    `model` is what it sends; `own_mask` says that its trainable positions are the client's own and travel too.
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
    """What a stage begins with, for rules that choose its first mask themselves.

    `model` is what the stage finds, `stage.counts` are its trainable weights per layer (k_l), `density` is 1 - s, and
    `seed` names the draw of the stage. `network` is a copy of the run's own, `inputs` are what samples are to it.
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
    """What `after_round` is told of a round's accepted updates.

    `mean` holds the union of the clients' positions; `support` [A] counts, in its order, the samples of the clients
    that hold each alive position (the clients, where each weighs the same); `samples` is the sum over all accepted
    clients, `clients` their number and `population` that of all clients (C). `before` is the model that was sent;
    `sent` is what clients decoded of it, where a lossy codec makes that another.
    """

    mean: GlobalModel
    support: Tensor
    samples: int
    clients: int
    before: GlobalModel
    sent: GlobalModel | None = None
    population: int = 0

    @property
    def received(self) -> GlobalModel:
        """The model that clients began with."""
        return self.before if self.sent is None else self.sent


class Rule(ABC):
    """A method's rule. Every hook has a default that does nothing: off is the same as absent.

    Frozen weights are never candidates and every count is exact. `absent` says what a position counts for that a
    client of the cohort does not hold: it is `left_out` of the mean (the mean is over holders), it counts as `zero`,
    or as `unchanged`, the value that was sent. `derives_start`: `start` needs nothing but the configuration and the
    initial model for the first stage, so that clients make its positions themselves and they are not sent. With
    `sends_changes` clients keep the weights that they were sent, and are sent those that changed since their last
    download; the model is dense, what is not trained is frozen for now. With `starts_anew` the first stage begins with
    weights initialised anew, on another draw than the run's first. With `begins_dense` the initial model is scored or
    sent whole, so that no layer has a density yet which `sparse_init=auto` could scale it to. `keeps_density`: a run
    ends with as many alive weights as it was asked for. `any_length`: what it does in a round depends on the lengths of
    the stage and of the run through its `schedule` alone, so that a run can be given more rounds.
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
        """Trainable weights per layer when the stage begins; `model` holds what is frozen by then."""
        return stage.counts

    def start(self, given: Start) -> Move | Positions | GlobalModel | None:
        """The trainable positions of a stage's first round; None for a random draw of `start_counts`.

        A whole model also brings values of its own.
        """
        return None

    def exploration_end(self, stage: Stage) -> int:
        """R_end: the first round from which the stage's mask is fixed."""
        return stage.start

    # ---- server ----------------------------------------------------------------------------------------------------

    def cohort_size(self, t: int, clients: int, cohort: int) -> int:
        """How many clients take part in round t; asked of warm-up rounds alone."""
        return cohort

    def before_round(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | GlobalModel | None:
        """The mask's change at the start of round t, on the aggregated model; `seed` names the round's draw.

        A `Move` costs few bytes; a model is any other change. What is grown starts from 0. Not asked in a stage's first
        round. In rounds before round 0 `model` is the initial one, and a mask drawn afresh keeps its values.
        """
        return None

    def down(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """What travels down beside the model in round t."""
        return ()

    def broadcast(self, model: GlobalModel, stage: Stage, t: int) -> Signals:
        """The signals that `down` declares."""
        return {}

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """What clients send beside their update in round t."""
        return ()

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """Whether clients send masks of their own in round t.

        `layers`: with as many weights per layer as they were sent; `any`: as they like, frozen weights excepted.
        """
        return None

    def asks(self, stage: Stage, t: int) -> bool:
        """Whether round t tells the server more of single clients than the mean of their updates."""
        observes = type(self).observe is not Rule.observe
        return observes or bool(self.up(stage, t)) or self.own_masks(stage, t) is not None

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """An accepted update, as it comes: `model` is what the client trained, under its own mask."""

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The next model, from the mean of the round's updates."""
        return cohort.mean

    def effective(self, model: GlobalModel) -> GlobalModel:
        """The model as it is used, where what trains and travels is something else that makes it."""
        return model

    def state_dict(self) -> dict[str, Any]:
        """What the server's rule keeps between rounds: tensors and plain values, for the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Goes back to what `state_dict` gave."""

    # ---- client ----------------------------------------------------------------------------------------------------

    def epochs(self, t: int, epochs: int) -> int:
        """Local epochs of round t in a run of `epochs` (E); 0 before round 0, where clients only answer."""
        return epochs if t >= 0 else 0

    def begin(self, turn: ClientTurn) -> None:
        """The model is loaded, no step is done."""

    def before_step(self, turn: ClientTurn) -> None:
        """A step is about to begin."""

    def after_backward(self, turn: ClientTurn) -> None:
        """The gradients are the loss's alone, those of dead weights too: clipping, decay and all else come next."""

    def shape_gradient_(self, turn: ClientTurn) -> None:
        """The gradients hold loss, decay and proximal term; masks come next."""

    def epoch_end(self, turn: ClientTurn, epoch: int) -> None:
        """An epoch is over, from 0; not called after the last."""

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """After the last step, on the device: small tensors or `Positions` that `answer` needs on the host."""
        return {}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """What the client sends, from what it trained and what was measured. A pure function, run on the host."""
        return trained

    def probes(self, stage: Stage, t: int) -> int:
        """How many dense gradient batches a client computes in round t beside its steps, for the bill of FLOPs."""
        return 0

    def dense_steps(self, stage: Stage, t: int) -> bool:
        """Whether local steps compute the gradients of dead weights too, for the bill of FLOPs."""
        return False

    # ---- what may be said beforehand -------------------------------------------------------------------------------

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """What a user should know of stages of these lengths (rounds), though they can be run."""
        return []

    def problems(self, facts: Facts) -> list[str]:
        """What stands against stages of `facts.stage_lengths` rounds, one sentence each."""
        return []

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """What stands against the clients' local training or the run's `other` rule, one sentence each."""
        return []


_IN_STEPS = ("begin", "before_step", "after_backward", "shape_gradient_", "epoch_end")


def touches_steps(rule: Rule) -> bool:
    """Whether a rule has a hand in single steps: an engine that records steps runs its clients unrecorded.

    So has one that moves masks or changes the network before or between steps: a recording has those it began with.
    """
    return any(getattr(type(rule), name) is not getattr(Rule, name) for name in _IN_STEPS)
