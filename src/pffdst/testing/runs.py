"""A whole run without files: a server, four clients of a few random images, a small network."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from torch import nn

from pffdst.client.turn import ClientSetup, ClientWork
from pffdst.core.facts import Facts
from pffdst.core.flat import FlatModule, initialise
from pffdst.core.inputs import ImageInputs
from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.core.seeding import generator_for
from pffdst.data.clients.divided import Iid
from pffdst.data.samples import ImageSet
from pffdst.engines.fabric_loop import FabricFit
from pffdst.engines.memories import ClientMemories
from pffdst.methods.aggregation import Aggregation, MaskedMean
from pffdst.methods.allocation import Erk
from pffdst.methods.faults import Fault, Faulty
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.freeze.none import NoFreezing
from pffdst.methods.freeze.two_stage import TwoStage
from pffdst.methods.local import LocalTraining
from pffdst.methods.method import Method
from pffdst.methods.participation import Participation, Population, Uniform
from pffdst.methods.readjust.static import Static
from pffdst.methods.rule import Rule
from pffdst.methods.server_optimizer import Mean, ServerOptimizer
from pffdst.methods.updates.plain import Plain
from pffdst.models.cnn import SmallCNN
from pffdst.server.round import Round
from pffdst.server.server import Server, ServerRules
from pffdst.wire.codecs import Codecs, ValueCodec
from pffdst.wire.codecs.floats import Float32

__all__ = ["SmallRun", "check_rule"]

CLIENTS, COHORT, SAMPLES, SIZE, CLASSES = 4, 3, 48, 8, 4


@final
class SmallRun:
    """A run of `rounds` rounds at sparsity 0.5; any part can be given, the others are defaults.

    `play` runs rounds, `digest` is the model's, `state` and `restore` work like a checkpoint.
    """

    def __init__(
        self,
        *,
        readjust: Rule | None = None,
        updates: Rule | None = None,
        freeze: FreezeSchedule | None = None,
        codec: ValueCodec | None = None,
        aggregation: Aggregation | None = None,
        server_optimizer: ServerOptimizer | None = None,
        participation: Participation | None = None,
        fault: Fault | None = None,
        training: LocalTraining | None = None,
        network: Callable[[], nn.Module] | None = None,
        dense: bool = False,
        rounds: int = 12,
        seed: int = 0,
    ) -> None:
        self.rounds = rounds
        self._make = network or (lambda: SmallCNN(1, SIZE, CLASSES))
        made = initialise(self._make, seed)
        flat = FlatModule(made)
        layout, values = flat.layout, flat.read()
        method = Method(readjust or Static(), updates or Plain())
        schedule = freeze or NoFreezing()
        counts = tuple(e.size for e in layout.layers) if dense else Erk().counts(layout, 0.5)
        values_codec = codec or Float32()
        self.setup = ClientSetup(
            network=copy.deepcopy(made),
            layout=layout,
            training=replace(training or LocalTraining(2, 8, 0.05, 0.9, 0.001, 0.0), rounds=rounds),
            method=method,
            stages=schedule.stages(rounds, counts),
            codecs=Codecs(values_codec, Float32()),
            send_statistics=True,
            seed=seed,
            inputs=ImageInputs((1, SIZE, SIZE), (0.5,), (0.3,)),
            data=_images(seed),
            shares=Iid().split(_images(seed), _images(seed), CLIENTS, CLASSES, seed),
            faulty=Faulty() if fault is None else Faulty.of(fault, CLIENTS, seed),
        )
        self.server = self._server(GlobalModel(layout, values, *_all(layout)), schedule, made, rounds)
        self.server.rules = replace(
            self.server.rules,
            aggregation=aggregation or MaskedMean(),
            optimizer=server_optimizer or Mean(),
            participation=participation or Uniform(),
        )
        self.memories = ClientMemories(CLIENTS, layout, self.setup.codecs, self.setup.known)
        self._work = ClientWork(self.setup, channels_last=False)
        self._fit = FabricFit("cpu")
        self.t = -method.warm_up

    def _server(self, model: GlobalModel, freeze: FreezeSchedule, network: nn.Module, rounds: int) -> Server:
        setup = self.setup
        return Server(
            model,
            ServerRules(
                method=setup.method,
                stages=setup.stages,
                freeze=freeze,
                aggregation=MaskedMean(),
                optimizer=Mean(),
                participation=Uniform(),
                population=Population(setup.clients, setup.samples),
                codecs=setup.codecs,
                seed=setup.seed,
                cohort=COHORT,
                ema=0.9,
                density=0.5,
                network=lambda: copy.deepcopy(network),
                inputs=setup.inputs,
                anew=lambda _: FlatModule(initialise(self._make, setup.seed + 1), setup.layout).read(),
            ),
            FlatModule(network, setup.layout).read_buffers(),
        )

    def play(self, until: int | None = None, look: Callable[[Round], None] | None = None) -> SmallRun:
        """Runs the rounds before `until` (None: all); `look` is called with each finished one."""
        for t in range(self.t, self.rounds if until is None else until):
            now = self.server.begin(t)
            for task in now.tasks():
                memory, kept = self.memories.of(task.client), self.memories.kept(task.client)
                update = self._work.turn(task, memory, self._fit, kept)
                self.memories.receive(task.client, task.payload)
                self.memories.keep(task.client, update.kept)
                now.absorb(update)
            now.conclude()
            self.t = t + 1
            if look is not None:
                look(now)
        return self

    @property
    def model(self) -> GlobalModel:
        """The server's model."""
        return self.server.model

    def digest(self) -> str:
        """sha256 of the model's values, masks and buffers."""
        parts = (self.model.values, self.model.alive, self.model.frozen, *self.server.state.buffers)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    def state(self) -> bytes:
        """What a checkpoint holds, as bytes that can be loaded as plain tensors."""
        buffer = io.BytesIO()
        torch.save({"t": self.t, "server": self.server.state_dict(), "clients": self.memories.state_dict()}, buffer)
        return buffer.getvalue()

    def restore(self, state: bytes) -> SmallRun:
        """Continues from there."""
        found = torch.load(io.BytesIO(state), weights_only=True)
        self.server.load_state_dict(found["server"])
        self.memories.load_state_dict(found["clients"])
        self.t = found["t"]
        return self


def _all(layout: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return Positions.all(layout).bits, Positions.none(layout).bits


def _images(seed: int) -> ImageSet:
    draw = generator_for(seed, "images")
    labels = torch.arange(SAMPLES) % CLASSES
    images = torch.randint(256, (SAMPLES, 1, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    images[:, :, :, :2] = (60 * labels)[:, None, None, None].to(torch.uint8)
    return ImageSet(images, labels)


def check_rule(make: Callable[[], Rule], *, updates: bool = False, dense: bool = False) -> None:
    """The laws of a rule; `make` returns a new one each time, `updates` says that it belongs to that group.

    No update is refused; dead weights are 0; frozen ones do not move, and stay frozen unless the rule temporarily
    freezes weights of a dense model; the same seed gives the same model; a resumed run ends like an uninterrupted one.
    Checked with and without freezing, if the rule supports it.
    """
    for freeze in (NoFreezing(), TwoStage()):
        if make().problems(Facts(stage_lengths=tuple(freeze.stage_lengths(12)))):
            continue

        def run(schedule: FreezeSchedule = freeze) -> SmallRun:
            given = (None, make()) if updates else (make(), None)
            return SmallRun(readjust=given[0], updates=given[1], freeze=schedule, dense=dense)

        _check_run(run)


def _check_run(make: Callable[[], SmallRun]) -> None:
    concluded: list[GlobalModel] = []

    def look(done: Round) -> None:
        model = done.server.model
        assert done.record.rejected == {}, f"round {done.plan.t}: updates were refused: {done.record.rejected}"
        assert not bool(model.weights[~model.alive].any()), f"round {done.plan.t}: a dead weight is not 0"
        assert not bool((model.frozen & ~model.alive).any()), f"round {done.plan.t}: a frozen weight is dead"
        assert bool(torch.isfinite(model.values).all()), f"round {done.plan.t}: a value is not finite"
        before, planned = concluded[-1] if concluded else done.planned, done.planned
        thawed = bool((before.frozen & ~planned.frozen).any())
        assert not thawed or done.server.rules.method.sends_changes, f"round {done.plan.t}: a frozen weight thawed"
        for old, new in ((before, planned), (planned, model)):
            held = old.frozen & new.frozen
            same = torch.equal(new.weights[held], old.weights[held])
            assert same, f"round {done.plan.t}: a frozen weight moved"
        concluded.append(model)

    whole = make().play(look=look)
    assert make().play().digest() == whole.digest(), "the same seed gave two different models"
    half = make().play(until=7)
    assert make().restore(half.state()).play().digest() == whole.digest(), "a resumed run ends with a different model"
