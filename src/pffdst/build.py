"""From a checked configuration to the parts of a run: the only place where configured classes are made."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from pffdst.client.turn import ClientSetup
from pffdst.config.check import ConfigError, data_problems
from pffdst.core.flat import FlatModule, initialise
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.cost.flops import FlopCounter
from pffdst.cost.ledger import Ledger
from pffdst.data.clients.divided import Partition, Shares
from pffdst.data.dataset import Dataset
from pffdst.engines.base import Engine
from pffdst.engines.distributed import Distributed
from pffdst.engines.distributed import follow as follow_with
from pffdst.engines.ranks import Ranks, current
from pffdst.experiment import Experiment
from pffdst.loggers.base import Loggers, RunLogger
from pffdst.loggers.console import ConsoleLogger
from pffdst.loggers.csv import CsvLogger
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.initial import scaled_to_density
from pffdst.methods.local import LocalTraining
from pffdst.methods.method import Method
from pffdst.methods.participation import Population
from pffdst.metrics.clients import ClientRecord
from pffdst.metrics.evaluate import Evaluator
from pffdst.metrics.names import columns
from pffdst.server.server import Server, ServerRules
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32

__all__ = ["Parts", "build", "follow", "parts"]

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Parts:
    """What a configuration makes in every process of a run: all that clients need, and the initial model.

    `network` is the run's one construction; whoever trains or evaluates has a copy. `freeze` is the schedule of the
    stages in `setup`.
    """

    dataset: Dataset
    shares: Shares
    network: nn.Module
    model: GlobalModel
    freeze: FreezeSchedule
    setup: ClientSetup

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one input."""
        return self.dataset.channels, self.dataset.size, self.dataset.size


def parts(cfg: DictConfig) -> Parts:
    """The parts. The same configuration and the same data give the same ones, in any process: no file, no socket."""
    dataset: Dataset = instantiate(cfg.dataset).load(cfg.seed)
    if cfg.validation_share > 0:
        dataset = dataset.with_validation(cfg.validation_share, cfg.seed)
    _check_fit(cfg, dataset)
    shares = _shares(cfg, dataset)
    network = initialise(
        lambda: instantiate(cfg.model, channels=dataset.channels, size=dataset.size, classes=dataset.classes), cfg.seed
    )
    flat = FlatModule(network)
    layout, method = flat.layout, Method(instantiate(cfg.readjust), instantiate(cfg.updates))
    freeze: FreezeSchedule = instantiate(cfg.freeze)
    stages = freeze.stages(cfg.rounds, instantiate(cfg.allocation).counts(layout, 1.0 - cfg.sparsity))
    model = _initial(cfg, flat, method, stages)
    codec = instantiate(cfg.codec)
    setup = ClientSetup(
        network=copy.deepcopy(network),
        layout=layout,
        training=_training(cfg),
        method=method,
        stages=stages,
        codecs=Codecs(codec, Float32(codec.level, codec.difference)),
        send_statistics=instantiate(cfg.aggregation).statistics == "average",
        seed=cfg.seed,
        mean=dataset.mean,
        std=dataset.std,
        images=dataset.train,
        shares=shares,
        callbacks=tuple(_named(cfg.callbacks)),
    )
    return Parts(dataset, shares, network, model, freeze, setup)


def _initial(cfg: DictConfig, flat: FlatModule, method: Method, stages: Any) -> GlobalModel:
    """The initial model: nothing is dead before the first round is planned."""
    layout, values = flat.layout, flat.read()
    everything, nothing = Positions.all(layout), Positions.none(layout)
    model = GlobalModel.of(everything, nothing, values[: layout.maskable], values[layout.maskable :])
    if not cfg.sparse_init:
        return model
    return model.with_values(scaled_to_density(model.values, layout, method.readjust.start_counts(model, stages[0])))


def _training(cfg: DictConfig) -> LocalTraining:
    return LocalTraining(
        epochs=cfg.local_epochs,
        batch_size=cfg.batch_size,
        lr=cfg.lr,
        momentum=cfg.momentum,
        weight_decay=cfg.weight_decay,
        prox_mu=cfg.prox_mu,
        clip_norm=cfg.clip_norm,
        rounds=cfg.rounds,
        objective=instantiate(cfg.objective),
        optimizer=instantiate(cfg.optimizer),
        lr_schedule=instantiate(cfg.lr_schedule),
        augmentation=instantiate(cfg.augmentation),
    )


def _named(node: Any) -> list[Any]:
    """What the keyed nodes of a group make; null ones are left out."""
    return [instantiate(child) for child in (node or {}).values() if child is not None]


def build(cfg: DictConfig, folder: Path, identity: str) -> Experiment:
    """Makes every part of the run from the configuration; each number of the root goes where it is needed, once."""
    made, engine = parts(cfg), _engine(cfg)
    dataset, setup = made.dataset, made.setup
    for rule in setup.method:
        for remark in rule.remarks([stage.length for stage in setup.stages]):
            _log.warning("%s", remark)
    network = FlatModule(copy.deepcopy(made.network).to(engine.device))
    return Experiment(
        folder=folder,
        config=_plain(cfg),
        fingerprint=identity,
        labels=_labels(cfg, dataset, network),
        rounds=cfg.rounds,
        eval_every=cfg.eval_every,
        eval_every_bytes=cfg.eval_every_bytes,
        checkpoint_every=cfg.checkpoint_every,
        device=engine.device,
        setup=setup,
        server=_server(cfg, made),
        engine=engine,
        ledger=Ledger(FlopCounter.of(network.module, setup.layout, made.shape), cfg.local_epochs, cfg.batch_size),
        evaluator=_evaluator(made, engine),
        network=network,
        clients=ClientRecord.of(
            cfg.clients, dataset.classes, lambda client: dataset.train.labels[made.shares.train(client)].numpy()
        ),
        loggers=_loggers(cfg, setup.layout),
        observers=tuple(_named(cfg.observers)),
        profile=cfg.profile,
    )


def _evaluator(made: Parts, engine: Engine) -> Evaluator:
    dataset, shares = made.dataset, made.shares
    return Evaluator(
        dataset.test,
        shares.test_owner(),
        shares.tested,
        dataset.mean,
        dataset.std,
        channels_last=engine.channels_last,
    )


def _engine(cfg: DictConfig) -> Engine:
    """The configured engine; under torchrun one of many, and the other ranks are sent the configuration as it opens."""
    engine: Engine = instantiate(cfg.engine)
    ranks = current()
    return engine if ranks is None else Distributed(engine, ranks, OmegaConf.to_yaml(cfg, resolve=True))


def follow(ranks: Ranks) -> None:
    """What a rank beside rank 0 does: it makes the clients from the configuration it is sent, and runs them."""
    logging.disable()  # rank 0 says it

    def make(text: str) -> tuple[Engine, ClientSetup]:
        cfg = OmegaConf.create(text)
        assert isinstance(cfg, DictConfig)
        return instantiate(cfg.engine), parts(cfg).setup

    follow_with(ranks, make)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration with every interpolation resolved and nothing missing."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _check_fit(cfg: DictConfig, dataset: Dataset) -> None:
    """What only the data themselves tell: their number and size against the partition and the model."""
    samples = dataset.train.labels.numel()
    if problems := data_problems(cfg, samples=samples, size=dataset.size, dataset=dataset.name):
        raise ConfigError(problems)


def _shares(cfg: DictConfig, dataset: Dataset) -> Shares:
    shares: Shares = instantiate(cfg.partition).split(
        dataset.train.labels, dataset.test.labels, cfg.clients, dataset.classes, cfg.seed
    )
    if isinstance(shares, Partition) and shares.moved > 0:
        _log.info("partition: %d training samples moved to clients that had too few", shares.moved)
    return shares


def _server(cfg: DictConfig, made: Parts) -> Server:
    """The server and what it goes by."""
    setup = made.setup
    rules = ServerRules(
        method=setup.method,
        stages=setup.stages,
        freeze=made.freeze,
        aggregation=instantiate(cfg.aggregation),
        optimizer=instantiate(cfg.server_optimizer),
        participation=instantiate(cfg.participation),
        population=Population(setup.clients, setup.samples),
        codecs=setup.codecs,
        seed=cfg.seed,
        cohort=cfg.cohort,
        ema=cfg.server_ema,
        ema_warm_up=cfg.server_ema_warm_up,
        keep=cfg.clients_keep,
        density=1.0 - cfg.sparsity,
        network=lambda: copy.deepcopy(made.network),
        shape=made.shape,
    )
    return Server(made.model, rules)


def _loggers(cfg: DictConfig, layout: Layout) -> Loggers:
    """CSV and console always; others as the group `logger` says, with what the run is called."""
    chosen: list[RunLogger] = [
        CsvLogger([*dict.fromkeys((*columns([e.name for e in layout.layers]), *Ledger.COLUMNS))]),
        ConsoleLogger(cfg.rounds, cfg.eval_every),
    ]
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    sweep = Path(hydra.sweep.dir).name if hydra is not None and hydra.mode == RunMode.MULTIRUN else None
    for node in (cfg.logger or {}).values():
        if node is not None:
            name = f"{cfg.label} s={cfg.sparsity} seed={cfg.seed}"
            chosen.append(instantiate(node, group=sweep, tags=[*cfg.tags, cfg.method_name, cfg.name], name=name))
    return Loggers(chosen)


def _labels(cfg: DictConfig, dataset: Dataset, network: FlatModule) -> dict[str, Any]:
    return {
        "method": cfg.label,
        "dataset": dataset.name,
        "model": type(network.module).__name__,
        "seed": cfg.seed,
        "sparsity_target": cfg.sparsity,
        "evaluated_on": "validation" if cfg.validation_share > 0 else "test",
    }
