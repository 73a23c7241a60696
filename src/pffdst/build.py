"""From a checked configuration to the parts of a run: the only place where configured classes are built."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torchmetrics import Metric

from pffdst import records
from pffdst.client.turn import ClientSetup
from pffdst.config.built import check_built, tell_of_built
from pffdst.config.check import ConfigError, data_problems
from pffdst.config.constructors import accepted_keys, locate, of_kind
from pffdst.config.identity import but_for_the_seed
from pffdst.config.training import local_training
from pffdst.core.errors import UserError
from pffdst.core.flat import FlatModule, coverage, described, initialise, layout_of
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.probe import least_batch, left_out, probe, repeat_problems, takes_channels_last
from pffdst.core.seeding import derive_seed
from pffdst.core.trace import Trace, copy_of, remarks, trace
from pffdst.cost.flops import FlopCounter
from pffdst.cost.ledger import Ledger
from pffdst.data.clients.divided import Partition, Partitioner, Shares
from pffdst.data.clients.given import write_clients
from pffdst.data.clients.owned import owner_count
from pffdst.data.dataset import Dataset, DataSource
from pffdst.engines.base import Engine
from pffdst.engines.brief import brief
from pffdst.engines.distributed import Distributed
from pffdst.engines.distributed import follow as follow_with
from pffdst.engines.ranks import Ranks, current
from pffdst.experiment import Experiment
from pffdst.loggers.base import Loggers, RunInfo, RunLogger
from pffdst.loggers.console import ConsoleLogger
from pffdst.loggers.csv import CsvLogger
from pffdst.methods.aggregation import Aggregation
from pffdst.methods.allocation import Allocation
from pffdst.methods.faults import Fault, Faulty
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.initial import scaled_to_density
from pffdst.methods.method import Method
from pffdst.methods.participation import Participation, Population
from pffdst.methods.rule import Rule, Start
from pffdst.methods.server_optimizer import ServerOptimizer
from pffdst.methods.stages import stages_with_weights
from pffdst.methods.time import TimeModel, Untimed
from pffdst.metrics.clients import ClientRecord
from pffdst.metrics.evaluate import Evaluator
from pffdst.metrics.names import columns, evaluated_on
from pffdst.observers import Observer
from pffdst.server.server import Server, ServerRules
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.base import ValueCodec
from pffdst.wire.codecs.floats import Float32

__all__ = ["Parts", "build", "content", "follow", "parts", "parts_of"]

_Kind = TypeVar("_Kind")
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Parts:
    """What every process of a run builds from the configuration: all that clients need, and the initial model.

    `network` is the run's only construction; training and evaluation use copies. `seen` is the trace of a training
    step. `freeze` is the schedule of the stages in `setup`.
    """

    dataset: Dataset
    shares: Shares
    network: nn.Module
    seen: Trace
    model: GlobalModel
    freeze: FreezeSchedule
    setup: ClientSetup


def parts(cfg: DictConfig) -> Parts:
    """The parts. The same configuration and data give the same parts in any process; opens no files or sockets."""
    dataset = _dataset(cfg)
    _check_fit(cfg, dataset)
    return parts_of(cfg, dataset, _shares(cfg, dataset))


def parts_of(cfg: DictConfig, dataset: Dataset, shares: Shares) -> Parts:
    """The parts of a run for loaded samples: all of them, or those of one client."""
    network, seen, layout = _network(cfg, dataset)
    flat, method = FlatModule(network, layout), Method(_part(cfg, "readjust", Rule), _part(cfg, "updates", Rule))
    freeze = _part(cfg, "freeze", FreezeSchedule)
    stages = stages_with_weights(freeze, _part(cfg, "allocation", Allocation), layout, cfg.rounds, cfg.sparsity)
    model = _initial(cfg, flat, method, stages)
    codec = _part(cfg, "codec", ValueCodec)
    setup = ClientSetup(
        network=copy_of(network),
        layout=layout,
        training=local_training(cfg),
        method=method,
        stages=stages,
        codecs=Codecs(codec, Float32(codec.level, codec.difference)),
        send_statistics=_part(cfg, "aggregation", Aggregation).statistics == "average",
        seed=cfg.seed,
        inputs=dataset.inputs,
        data=dataset.train,
        shares=shares,
        callbacks=tuple(_named(cfg, "callbacks", Callback).values()),
        channels_last=takes_channels_last(network, dataset.inputs, dataset.classes),
        known=_known(cfg, dataset, network, model, method, stages),
        least=least_batch(network, dataset.inputs),
        faulty=Faulty.of(_part(cfg, "faults", Fault), shares.clients, cfg.seed) if cfg.get("faults") else Faulty(),
    )
    check_built(cfg, setup)
    return Parts(dataset, shares, network, seen, model, freeze, setup)


def _network(cfg: DictConfig, dataset: Dataset) -> tuple[nn.Module, Trace, Layout]:
    """Builds the run's network, traces a training step and derives the layout. ConfigError if it cannot work."""
    dense = [str(pattern) for pattern in cfg.model.get("dense") or ()]
    network = _constructed(cfg, dataset, cfg.seed)
    problems = probe(network, dataset.inputs, dataset.classes) or repeat_problems(
        network, _constructed(cfg, dataset, cfg.seed), dataset.inputs
    )
    if problems:
        raise ConfigError(problems)
    seen = trace(network, dataset.inputs)
    try:
        return network, seen, layout_of(network, seen, dense)
    except ValueError as error:
        raise ConfigError([f"model: {error}"]) from error


def _constructed(cfg: DictConfig, dataset: Dataset, seed: int) -> nn.Module:
    """The configured network, with weights from the draw of `seed`."""
    node = OmegaConf.masked_copy(cfg.model, [key for key in cfg.model if key != "dense"])
    told = {**dataset.inputs.arguments(), "classes": dataset.classes}
    try:
        return initialise(lambda: instantiate(node, **told), seed, dataset.inputs)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError | ValueError):
            raise ConfigError([f"model: {error.__cause__}"]) from error
        raise


def _tell(made: Parts, channels_last: bool) -> None:
    """Logs what may be unexpected about the clients and the network."""
    if (faulty := made.setup.faulty).clients:
        _log.warning("faults: %s in clients %s", faulty.fault, ", ".join(map(str, sorted(faulty.clients))))
    masked = coverage(made.setup.layout)
    _log.log(logging.WARNING if masked.share < 0.9 else logging.INFO, "model: %s", masked)
    for line in (*remarks(made.seen, made.setup.layout), *left_out(made.network)):
        _log.warning("model: %s", line)
    if channels_last and not made.setup.channels_last and len(made.dataset.inputs.shape) == 3:
        _log.info("model: it does not accept channels_last images (view instead of reshape?): it gets contiguous ones")


def _known(
    cfg: DictConfig, dataset: Dataset, network: nn.Module, model: GlobalModel, method: Method, stages: tuple[Stage, ...]
) -> Positions | None:
    """The first stage's positions, if the rule derives them from what every process has."""
    if not method.readjust.derives_start:
        return None
    seed = stages[0].first_seed(cfg.seed)
    start = Start(model, stages[0], 1.0 - cfg.sparsity, seed, copy_of(network), dataset.inputs)
    chosen = method.readjust.start(start)
    if not isinstance(chosen, Positions):
        raise TypeError(f"Expected a rule with derives_start to choose positions, but got {type(chosen).__name__}")
    return chosen


def _initial(cfg: DictConfig, flat: FlatModule, method: Method, stages: tuple[Stage, ...]) -> GlobalModel:
    """The initial model: no weight is dead before the first round is planned."""
    layout, values = flat.layout, flat.read()
    everything, nothing = Positions.all(layout), Positions.none(layout)
    model = GlobalModel.of(everything, nothing, values[: layout.maskable], values[layout.maskable :])
    if not _scales(cfg, layout, method):
        return model
    return model.with_values(scaled_to_density(model.values, layout, method.readjust.start_counts(model, stages[0])))


def _scales(cfg: DictConfig, layout: Layout, method: Method) -> bool:
    """Whether initial weights are scaled to their layer's density; normalisation layers would undo it."""
    if cfg.sparse_init == "auto":
        return not (method.readjust.begins_dense or any(entry.normalisation for entry in layout.entries))
    return bool(cfg.sparse_init)


def _anew(cfg: DictConfig, made: Parts, counts: Sequence[int]) -> Tensor:
    """Values [N] of the network initialised on another draw, for a model with `counts` weights per layer."""
    layout = made.setup.layout
    network = _constructed(cfg, made.dataset, derive_seed(cfg.seed, "anew"))
    values = FlatModule(network, layout).read()
    return scaled_to_density(values, layout, counts) if _scales(cfg, layout, made.setup.method) else values


def _part(cfg: DictConfig, group: str, kind: type[_Kind]) -> _Kind:
    """Builds a group's chosen option. UserError if it is of another kind than the group's."""
    return of_kind(instantiate(cfg[group]), kind, group)


def _named(cfg: DictConfig, group: str, kind: type[_Kind]) -> dict[str, _Kind]:
    """Builds the nodes of a group, by `group.key`, except null ones. UserError if one is of another kind."""
    nodes = {f"{group}.{key}": node for key, node in (cfg[group] or {}).items() if node is not None}
    return {name: of_kind(instantiate(node), kind, name) for name, node in nodes.items()}


def build(cfg: DictConfig, folder: Path, identity: str) -> Experiment:
    """Builds every part of the run from the configuration; each root setting is passed on here and nowhere else."""
    made, engine, plain = parts(cfg), _engine(cfg, current()), _plain(cfg)
    dataset, setup = made.dataset, made.setup
    engine.brief = brief(plain, dataset)
    if cfg.partition.get("save") is not None:
        write_clients(made.shares, Path(cfg.partition.save).expanduser().absolute(), dataset.rows)
    for rule in setup.method:
        for remark in rule.remarks([stage.length for stage in setup.stages]):
            _log.warning("%s", remark)
    _tell(made, engine.channels_last)
    tell_of_built(cfg, setup)
    network = FlatModule(copy_of(made.network).to(engine.device), setup.layout)
    return Experiment(
        info=_run_info(cfg, plain, folder, setup),
        fingerprint=identity,
        content=_content(cfg, dataset, made.network),
        labels=records.labels(plain, dataset, network),
        rounds=cfg.rounds,
        eval_every=cfg.eval_every,
        eval_every_bytes=cfg.eval_every_bytes,
        checkpoint_every=cfg.checkpoint_every,
        device=engine.device,
        setup=setup,
        server=_server(cfg, made),
        time=_time(cfg),
        engine=engine,
        ledger=Ledger(FlopCounter.counted(made.seen, setup.layout), cfg.batch_size),
        evaluator=_evaluator(cfg, made, engine),
        network=network,
        clients=ClientRecord.of(
            cfg.clients, dataset.classes, lambda client: dataset.train.labels[made.shares.train(client)].numpy()
        ),
        loggers=_loggers(cfg, setup.layout),
        observers=tuple(_named(cfg, "observers", Observer).values()),
        card=records.card(plain["model"], dataset, identity, cfg.seed),
        evaluated_on=evaluated_on(cfg.validation_share),
        profile=cfg.profile,
    )


def _evaluator(cfg: DictConfig, made: Parts, engine: Engine) -> Evaluator:
    dataset, shares = made.dataset, made.shares
    return Evaluator(
        dataset.test,
        shares.test_owner(),
        shares.tested,
        dataset.inputs,
        channels_last=engine.channels_last and made.setup.channels_last,
        metrics=_metrics(cfg, dataset.classes),
    )


def _time(cfg: DictConfig) -> TimeModel:
    """The configured time model, or an empty one."""
    return Untimed() if cfg.get("time") is None else _part(cfg, "time", TimeModel)


def _engine(cfg: DictConfig, ranks: Ranks | None = None) -> Engine:
    """The configured engine, distributed over the ranks if there are any: they get the configuration as it opens."""
    engine = _part(cfg, "engine", Engine)
    engine.cohort = cfg.cohort
    return engine if ranks is None else Distributed(engine, ranks, OmegaConf.to_yaml(cfg, resolve=True))


def follow(ranks: Ranks) -> None:
    """What every rank but rank 0 does: builds the clients from the configuration it receives, and runs them."""
    logging.disable()  # rank 0 logs everything

    def make(text: str) -> tuple[Engine, ClientSetup]:
        cfg = OmegaConf.create(text)
        assert isinstance(cfg, DictConfig)
        return _engine(cfg), parts(cfg).setup

    follow_with(ranks, make)


def content(cfg: DictConfig) -> dict[str, str]:
    """What identifies a run besides its configuration, as text: data contents, and the tensors' types and shapes."""
    dataset = _dataset(cfg)
    return _content(cfg, dataset, _constructed(cfg, dataset, cfg.seed))


def _content(cfg: DictConfig, dataset: Dataset, network: nn.Module) -> dict[str, str]:
    named = {group: instantiate(cfg[group]) for group in ("partition", "participation", "aggregation")}
    named["time"] = _time(cfg)
    read = {f"{group}'s file": found for group, part in named.items() if (found := getattr(part, "content", ""))}
    return dataset.described | {name: f"content {found[:12]}" for name, found in read.items()} | described(network)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration with every interpolation resolved and nothing missing."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _dataset(cfg: DictConfig) -> Dataset:
    """The data, with a share of the training set instead of the test set if configured."""
    dataset = _part(cfg, "dataset", DataSource).load(cfg.seed)
    return dataset.with_validation(cfg.validation_share, cfg.seed)


def _check_fit(cfg: DictConfig, dataset: Dataset) -> None:
    """Checks that need the data: their number and size against the partition and the model."""
    samples, owners = len(dataset.train), owner_count(dataset.train)
    size = dataset.inputs.arguments().get("size")
    problems = data_problems(cfg, samples=samples, owners=owners, size=size, dataset=dataset.name)
    if problems := [*dataset.problems(), *problems]:
        raise ConfigError(problems)


def _shares(cfg: DictConfig, dataset: Dataset) -> Shares:
    way = _part(cfg, "partition", Partitioner)
    shares = way.split(*dataset.divisible, cfg.clients, dataset.classes, cfg.seed)
    if isinstance(shares, Partition) and shares.moved > 0:
        _log.info("partition: moved %d training samples to clients that had too few", shares.moved)
    return shares


def _server(cfg: DictConfig, made: Parts) -> Server:
    """The server and its rules."""
    setup = made.setup
    rules = ServerRules(
        method=setup.method,
        stages=setup.stages,
        freeze=made.freeze,
        aggregation=_part(cfg, "aggregation", Aggregation),
        optimizer=_part(cfg, "server_optimizer", ServerOptimizer),
        participation=_part(cfg, "participation", Participation),
        population=Population(setup.clients, setup.samples),
        codecs=setup.codecs,
        seed=cfg.seed,
        cohort=cfg.cohort,
        ema=cfg.server_ema,
        ema_warm_up=cfg.server_ema_warm_up,
        keep=cfg.clients_keep,
        density=1.0 - cfg.sparsity,
        network=lambda: copy_of(made.network),
        inputs=made.dataset.inputs,
        known=setup.known,
        anew=lambda counts: _anew(cfg, made, counts),
    )
    return Server(made.model, rules, FlatModule(made.network, setup.layout).read_buffers())


def _run_info(cfg: DictConfig, plain: dict[str, Any], folder: Path, setup: ClientSetup) -> RunInfo:
    """The run's name and its model's size, for all loggers."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    sweep = Path(hydra.sweep.dir).name if hydra is not None and hydra.mode == RunMode.MULTIRUN else None
    alive = sum(sum(stage.counts) for stage in setup.stages)
    size = (coverage(setup.layout).parameters, setup.layout.maskable, alive)
    name = f"{cfg.label} {'dense' if alive == setup.layout.maskable else f's={cfg.sparsity}'} seed={cfg.seed}"
    return RunInfo(plain, folder, name, sweep, (*cfg.tags, cfg.method_name, cfg.name), *size, but_for_the_seed(cfg))


def _loggers(cfg: DictConfig, layout: Layout) -> Loggers:
    """CSV and console always, others as configured in the group `logger`."""
    names = columns([e.name for e in layout.layers], evaluated_on(cfg.validation_share))
    always: dict[str, RunLogger] = {
        "csv": CsvLogger([*dict.fromkeys((*names, *Ledger.COLUMNS))]),
        "console": ConsoleLogger(cfg.rounds, cfg.eval_every),
    }
    return Loggers(always | _named(cfg, "logger", RunLogger))


def _metrics(cfg: DictConfig, classes: int) -> dict[str, Metric]:
    """The metrics of the group `metrics` by name; those that need the number of classes receive it."""
    made = {}
    for name, node in (cfg.metrics or {}).items():
        if node is not None:
            accepted = accepted_keys(locate(str(node["_target_"])))
            asks = accepted is None or "num_classes" in accepted
            metric = instantiate(node, **({"num_classes": classes} if asks else {}))
            made[str(name)] = of_kind(metric, Metric, f"metrics.{name}")
    return made
