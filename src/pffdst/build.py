"""From a checked configuration to a run: the only place where configured classes are made."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from pffdst.client.step import LocalTraining
from pffdst.client.turn import ClientSetup
from pffdst.config.check import ConfigError, data_problems
from pffdst.config.identity import differences, engine_identity, fingerprint
from pffdst.core.errors import UserError
from pffdst.core.flat import FlatModule, initialise
from pffdst.core.model import GlobalModel, Layout
from pffdst.cost.flops import FlopCounter
from pffdst.cost.ledger import Ledger
from pffdst.data.clients.divided import Partition, Shares
from pffdst.data.dataset import Dataset
from pffdst.engines.base import Engine
from pffdst.engines.distributed import Distributed
from pffdst.engines.distributed import follow as follow_with
from pffdst.engines.ranks import Ranks, current
from pffdst.experiment import STATE_FORMAT, Experiment
from pffdst.loggers.base import Loggers, RunLogger
from pffdst.loggers.console import ConsoleLogger
from pffdst.loggers.csv import CsvLogger
from pffdst.loggers.tables import print_summary
from pffdst.methods.initial import scaled_to_density
from pffdst.metrics.clients import ClientRecord
from pffdst.metrics.evaluate import Evaluator
from pffdst.metrics.names import columns
from pffdst.run import run
from pffdst.runs import checkpoint
from pffdst.runs import jobs as sweeps
from pffdst.runs.provenance import PROVENANCE, provenance
from pffdst.server.server import Server, ServerRules

__all__ = ["build", "follow", "launch", "recorded_run"]

_log = logging.getLogger(__name__)


def launch(cfg: DictConfig) -> float:
    """Runs a composed and checked configuration in its folder, or what is left of it; gives its last-5 accuracy.

    Raises UserError where the folder holds another run, is in use, or a checkpoint cannot be read.
    """
    hydra = HydraConfig.get()
    folder, identity = Path(hydra.runtime.output_dir), fingerprint(cfg)
    in_sweep = hydra.mode == RunMode.MULTIRUN
    resume = cfg.resume
    if in_sweep and resume is False:
        attempt = sweeps.previous_attempt(Path(hydra.sweep.dir).parent, identity, folder, engine_identity(cfg))
        if attempt is not None and attempt.folder != folder.resolve():
            sweeps.mark_skipped(folder, attempt.folder)
        if attempt is not None:
            _log.info("%s in %s", "done before" if attempt.done else "going on", attempt.folder)
            folder, resume = attempt.folder, True
    with sweeps.locked(folder):
        summary = finished(folder, identity) if resume is not False else None
        if summary is None:
            state = starting_state(cfg, folder, resume, identity)
            summary = recorded_run(build(cfg, folder, identity), state, engine_identity(cfg))
        else:
            print_summary(summary)
    return float(summary["last5_acc_global"])


def finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The summary of a run that is done already, or None."""
    known = sweeps.read_run(folder)
    if (known.get("fingerprint"), known.get("status")) != (identity, "done"):
        return None
    summary: dict[str, Any] = json.loads((folder / sweeps.SUMMARY).read_text())
    return summary


def starting_state(cfg: DictConfig, folder: Path, resume: bool | str, identity: str) -> Mapping[str, Any] | None:
    """The checkpoint to go on from; None for a run from the start. UserError where that would lose something."""
    checkpoints = folder / "checkpoints"
    if resume is False:
        if checkpoints.exists() or (folder / sweeps.SUMMARY).exists():
            raise UserError(
                f"{folder} holds a run already: write resume=true to go on with it, or another hydra.run.dir"
            )
        return None
    if resume is True:
        found = checkpoint.latest(checkpoints)
        if found is None:
            if not (folder / sweeps.RUN).exists():
                raise UserError(f"resume=true: {folder} holds no run; name one, e.g. resume=logs/runs/DATE/RUN")
            _log.warning("%s has no checkpoint yet: the run starts from round 1", folder)
            return None
        state, path = found
    else:
        path = Path(str(resume))
        state = checkpoint.load(path)
    if state["format"] != STATE_FORMAT:
        raise UserError(f"{path} was written by another version of this program: finish the run with that one")
    if state["fingerprint"] != identity:
        raise UserError(_another_configuration(cfg, folder, path))
    _log.info("resuming after round %d from %s", state["t"], path)
    return state


def _another_configuration(cfg: DictConfig, folder: Path, path: Path) -> str:
    lines = []
    if (folder / "config.yaml").exists():
        saved = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        now = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(saved, dict)
        assert isinstance(now, dict)
        lines = differences({str(k): v for k, v in saved.items()}, {str(k): v for k, v in now.items()})
    what = "\n".join(f"  - {line}" for line in lines) or "  - (what differs was not saved)"
    return f"{path} belongs to a run of another configuration; give it the same one, or start a new run:\n{what}"


def recorded_run(experiment: Experiment, state: Mapping[str, Any] | None, engine: str) -> dict[str, Any]:
    """Runs, with the status in run.json and the resolved configuration in config.yaml."""
    folder, identity = experiment.folder, experiment.fingerprint
    text = OmegaConf.to_yaml(OmegaConf.create(dict(experiment.config)))
    checkpoint.write_atomically(folder / "config.yaml", text.encode())
    note_provenance(folder, 0 if state is None else int(state["t"]))
    experiment.describe_clients()
    sweeps.mark(folder, identity, "running", engine)
    summary = run(experiment, state)
    sweeps.mark(folder, identity, "done", engine)
    return summary


def note_provenance(folder: Path, t: int) -> None:
    """Adds to provenance.json [{"from_round", "machine", "versions", "command", "date", "git"}] what now goes on.

    A run from the start (t = 0) begins it anew; a resumed one has an entry for each time it was taken up.
    """
    path = folder / PROVENANCE
    before = []
    if t > 0 and path.exists():
        with suppress(ValueError):
            before = json.loads(path.read_text())
    text = json.dumps([*before, {"from_round": t + 1, **provenance()}], indent=2)
    checkpoint.write_atomically(path, text.encode() + b"\n")


def build(cfg: DictConfig, folder: Path, identity: str) -> Experiment:
    """Makes every part of the run from the configuration; each number of the root goes where it is needed, once."""
    dataset: Dataset = instantiate(cfg.dataset).load(cfg.seed)
    if cfg.validation_share > 0:
        dataset = dataset.with_validation(cfg.validation_share, cfg.seed)
    _check_fit(cfg, dataset)
    engine = _engine(cfg)
    shares = _shares(cfg, dataset)
    shape = (dataset.channels, dataset.size, dataset.size)

    def network() -> Any:
        return instantiate(cfg.model, channels=dataset.channels, size=dataset.size, classes=dataset.classes)

    initial = FlatModule(initialise(network, cfg.seed).to(engine.device))
    layout = initial.layout
    server = _server(cfg, initial)
    setup = _setup(cfg, dataset, shares, server, network())
    return Experiment(
        folder=folder,
        config=_plain(cfg),
        fingerprint=identity,
        labels=_labels(cfg, dataset, initial),
        rounds=cfg.rounds,
        eval_every=cfg.eval_every,
        eval_every_bytes=cfg.eval_every_bytes,
        checkpoint_every=cfg.checkpoint_every,
        device=engine.device,
        setup=setup,
        server=server,
        engine=engine,
        ledger=Ledger(FlopCounter.of(initial.module, layout, shape), cfg.local_epochs, cfg.batch_size),
        evaluator=Evaluator(
            dataset.test,
            shares.test_owner(),
            shares.tested,
            dataset.mean,
            dataset.std,
            channels_last=engine.channels_last,
        ),
        network=initial,
        clients=ClientRecord.of(
            cfg.clients, dataset.classes, lambda client: dataset.train.labels[shares.train(client)].numpy()
        ),
        loggers=_loggers(cfg, layout),
        profile=cfg.profile,
    )


def _engine(cfg: DictConfig) -> Engine:
    """The configured engine; under torchrun one of many, and the other ranks are told the configuration.

    They are told once the data are here: what was downloaded and decoded lies in the cache for those beside.
    """
    engine: Engine = instantiate(cfg.engine)
    ranks = current()
    if ranks is None:
        return engine
    for peer in ranks.links:
        ranks.send(peer, OmegaConf.to_yaml(cfg, resolve=True).encode())
    return Distributed(engine, ranks)


def follow(ranks: Ranks) -> None:
    """What a rank beside rank 0 does: it makes the clients from the configuration it is sent, and runs them."""
    logging.disable()  # rank 0 says it

    def make(text: str) -> tuple[Engine, ClientSetup]:
        cfg = OmegaConf.create(text)
        assert isinstance(cfg, DictConfig)
        dataset: Dataset = instantiate(cfg.dataset).load(cfg.seed)
        network = instantiate(cfg.model, channels=dataset.channels, size=dataset.size, classes=dataset.classes)
        server = _server(cfg, FlatModule(network))
        return instantiate(cfg.engine), _setup(cfg, dataset, _shares(cfg, dataset), server, network)

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


def _server(cfg: DictConfig, initial: FlatModule) -> Server:
    """The server and what it goes by. Nothing is dead before the first round is planned."""
    layout = initial.layout
    rule = instantiate(cfg.readjust)
    counts = instantiate(cfg.allocation).counts(layout, 1.0 - cfg.sparsity)
    schedule = instantiate(cfg.freeze)
    for remark in rule.remarks(schedule.stage_lengths(cfg.rounds)):
        _log.warning("%s", remark)
    stages = schedule.stages(cfg.rounds, counts)
    alive = torch.ones(layout.maskable, dtype=torch.bool)
    model = GlobalModel(layout, initial.read(), alive, ~alive)
    if cfg.sparse_init:
        model = model.with_values(scaled_to_density(model.values, layout, rule.start_counts(model, stages[0])))
    rules = ServerRules(
        stages=stages,
        rule=rule,
        start_from=schedule.start_from,
        aggregation=instantiate(cfg.aggregation),
        participation=instantiate(cfg.participation),
        codec=instantiate(cfg.codec),
        seed=cfg.seed,
        clients=cfg.clients,
        cohort=cfg.cohort,
        ema=cfg.server_ema,
    )
    return Server(model, rules)


def _setup(cfg: DictConfig, dataset: Dataset, shares: Shares, server: Server, network: Any) -> ClientSetup:
    """What the clients know: the same objects as the server's, which keep no state."""
    return ClientSetup(
        network=network,
        layout=server.model.layout,
        training=LocalTraining(cfg.local_epochs, cfg.batch_size, cfg.lr, cfg.momentum, cfg.weight_decay, cfg.prox_mu),
        rule=server.rules.rule,
        stages=server.rules.stages,
        codec=server.rules.codec,
        send_statistics=server.rules.aggregation.statistics == "average",
        seed=cfg.seed,
        mean=dataset.mean,
        std=dataset.std,
        images=dataset.train,
        shares=shares,
    )


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
