"""The command line, looked at before Hydra does: every problem of it at once, in words that say what to write."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pffdst.config.check import ConfigError, problems_of
from pffdst.config.ranges import range_problems
from pffdst.config.resume import expand, folder_problems, key_of
from pffdst.config.schema import RootConfig
from pffdst.config.compose import Composed, Session, session
from pffdst.config.constructors import did_you_mean, own_keys

__all__ = ["asks_for_search", "composition_line", "opened_for", "preflight", "sweep_problems"]

_PRESETS = ("method", "experiment")
_EXPECTED = {"int": "a whole number", "float": "a number", "str": "text", "list[str]": "a list, such as [a,b]"}


@final
@dataclass(frozen=True)
class _Given:
    """One override of the command line, parsed; `values` are its value, or a sweep's values one by one."""

    line: str
    key: str
    values: tuple[Any, ...]
    swept: bool

    def written(self, value: Any) -> str:
        """The override with one of its values, as it would be typed."""
        return f"{self.key}={_text(value)}" if self.swept else self.line


def preflight(argv: Sequence[str], config_dir: Path) -> list[str]:
    """The arguments to hand to Hydra: flags untouched, `resume=PATH` written out.

    A single run's configuration is composed and checked whole. For a sweep (`-m`) the keys, the options, the syntax
    and the types of all values are; ranges are left to each job, so that one bad job does not stop the others.

    Raises:
        ConfigError: with every problem found.
    """
    args, others = get_args_parser().parse_known_intermixed_args(list(argv))
    if args.help or args.hydra_help or args.shell_completion or args.experimental_rerun is not None:
        return list(argv)
    # What follows an unknown flag is among the others; it is an override all the same.
    overrides = [*args.overrides, *(token for token in others if not token.startswith("-"))]
    multirun = bool(args.multirun) or "hydra.mode=MULTIRUN" in overrides
    expanded = expand(overrides, multirun)
    problems = [_dashed(token) for token in others if token.startswith("-")] + expanded.problems
    if multirun and _search_of(overrides) is not None:
        problems.append(f"-m and search do not go together; write python train.py search={_search_of(overrides)}")
    with opened_for(args, config_dir) as opened:
        problems += _Look(opened, multirun).problems(expanded.overrides, whole=args.cfg is None and args.info is None)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    flags = [token for token in argv if token not in set(overrides)]
    # Overrides first: `--info` takes an optional word and would swallow one that follows it.
    return [*expanded.overrides, *flags]


def asks_for_search(argv: Sequence[str]) -> bool:
    """Whether a command line starts a search; one that only shows something (`--cfg`, `--help`) does not."""
    args, _ = get_args_parser().parse_known_intermixed_args(list(argv))
    shows = args.help or args.hydra_help or args.shell_completion or args.cfg is not None or args.info is not None
    return not shows and _search_of(args.overrides) is not None


def _search_of(overrides: Sequence[str]) -> str | None:
    chosen = [line.partition("=")[2] for line in overrides if key_of(line) == "search"]
    return chosen[-1] if chosen and chosen[-1] != "null" else None


def opened_for(args: argparse.Namespace, config_dir: Path) -> AbstractContextManager[Session]:
    """Hydra, opened on the folders that the flags of a command line name."""
    return session(_folder(args, config_dir), args.config_name or "train", _places(args))


def sweep_problems(opened: Session, overrides: Sequence[str]) -> list[str]:
    """What a sweep over these overrides would be refused for: keys, options in every combination, types."""
    return list(dict.fromkeys(_Look(opened, multirun=True).problems(overrides, whole=False)))


@final
class _Look:
    """The look at one command line."""

    def __init__(self, opened: Session, multirun: bool) -> None:
        self._session = opened
        self._groups = opened.groups()
        self._parser = OverridesParser.create(config_loader=opened.loader)
        self._multirun = multirun
        self._lines: list[str] = []
        self._misspelt: set[str] = set()

    def problems(self, overrides: Sequence[str], whole: bool) -> list[str]:
        """All problem lines of the overrides; with `whole`, of the single run they compose too."""
        hydra = [line for line in overrides if _is_hydra(line) and self._parsed(line) is not None]
        given = [item for line in overrides if not _is_hydra(line) for item in self._read(line)]
        swept = {item.key for item in given}
        given += [item for item in self._preset_sweep(given) if item.key not in swept]
        options = [item for item in given if item.key in self._groups and self._known_options(item)]
        keys = [item for item in given if item.key not in self._groups]
        if not self._lines and not self._multirun and self._composes(overrides, whole):
            return self._lines
        bases = self._bases(options)
        good = [item for item in keys if self._fits_all(item, bases)]
        if whole and not self._multirun and bases:
            self._judge([*(item.line for item in [*options, *good]), *hydra])
        return self._lines

    def _composes(self, overrides: Sequence[str], whole: bool) -> bool:
        """The short way for a sound command line: what Hydra composes needs no look at each key."""
        try:
            composed = self._session.compose(overrides)
        except Exception:
            return False  # the long way says why
        if whole:
            self._lines += _judgement(composed)
        return True

    def _read(self, line: str) -> Iterator[_Given]:
        """The override, parsed; none, and a problem line, where it cannot be taken."""
        refused = self._refused(line)
        if refused is not None:
            self._lines.append(refused)
            return
        override = self._parsed(line)
        if override is None:
            return
        if override.is_sweep_override() and not self._multirun:
            raw = line.split("=", 1)[1]
            self._lines.append(f"{line}: several values need -m (python train.py -m {line}); a list is written [{raw}]")
            return
        yield _Given(line, override.get_key_element(), _values(override), override.is_sweep_override())

    def _parsed(self, line: str) -> Override | None:
        try:
            return self._parser.parse_overrides([line])[0]
        except HydraException as error:
            self._lines.append(_syntax(line, error))
            return None

    def _refused(self, line: str) -> str | None:
        """The problem of an override that adds or deletes a key, or has no `=`."""
        bare = line.lstrip("+~")
        key = key_of(bare)
        if line.startswith("~"):
            options = self._session.options(key) if key in self._groups else []
            instead = f"choose an option: {_listed(key, options)}" if options else self._set(key)
            off = "leave it out: it is off unless chosen"
            return f"{line}: no key can be taken away; {off if key in ('experiment', 'sweep', 'search') else instead}"
        if line.startswith("+"):
            if key in self._groups or key in self._known_keys():
                return f"{line}: keys are set without a plus sign; write {bare}"
            return f"{line}: no new key can be added; {self._instead(key)}"
        if "=" not in line:
            instead = self._set(line) if line in self._known_keys() else self._instead(line)
            return f"{line}: expected key=value, such as sparsity=0.95; {instead}"
        return None

    def _preset_sweep(self, given: Sequence[_Given]) -> list[_Given]:
        """The overrides that a `sweep=` preset adds; a problem line where it is given without -m."""
        presets = [item for item in given if item.key == "sweep" and self._has(item)]
        if not presets:
            return []
        if not self._multirun:
            line = presets[-1].line
            self._lines.append(f"{line}: a sweep is started with -m; write python train.py -m {line}")
            return []
        params = self._session.compose([presets[-1].line]).hydra.sweeper.get("params") or {}
        return [item for key, value in params.items() for item in self._read(f"{key}={value}")]

    def _has(self, item: _Given) -> bool:
        return all(str(value) in self._session.options(item.key) for value in item.values)

    def _known_options(self, item: _Given) -> bool:
        """Whether every value is one of the group's options."""
        options = self._session.options(item.key)
        wrong = [value for value in item.values if str(value) not in options]
        for value in wrong:
            close = did_you_mean(str(value), options)
            self._lines.append(
                f"{item.written(value)}: no such option; {close}{' ' if close else ''}"
                f"options: {_listed(item.key, options)}"
            )
        self._misspelt |= {item.key} if wrong else set()
        return not wrong

    def _bases(self, options: Sequence[_Given]) -> list[tuple[str, DictConfig]]:
        """The configuration of every combination of chosen options, with the options as they were typed."""
        bases = []
        for chosen in itertools.product(*([item.written(value) for value in item.values] for item in options)):
            try:
                bases.append((" ".join(chosen), self._session.compose(chosen).cfg))
            except Exception as error:
                self._lines.append(composition_line(error))
        return bases

    def _fits_all(self, item: _Given, bases: Sequence[tuple[str, DictConfig]]) -> bool:
        """Whether the key exists and takes every value, whatever options it is combined with."""
        before = len(self._lines)
        for (chosen, cfg), value in itertools.product(bases, item.values):
            line = self._unfit(item, value, cfg, chosen)
            if line is not None and line not in self._lines:
                self._lines.append(line)
        return len(self._lines) == before

    def _unfit(self, item: _Given, value: Any, cfg: DictConfig, chosen: str) -> str | None:
        if item.key not in _dotted(cfg):
            if "." in item.key and self._misspelt & {item.key.partition(".")[0], *_PRESETS}:
                return None  # it may belong to the option that was meant
            if item.key in self._known_keys():
                group = item.key.partition(".")[0]
                return f"{item.key}: beside {chosen} there is no such key; {self._within(group, cfg)}"
            return f"{item.key}: there is no such key; {self._instead(item.key, cfg)}"
        try:
            OmegaConf.update(cfg, item.key, value, merge=True)
        except OmegaConfBaseException:
            return _type_line(item.key, value, OmegaConf.select(self._default, item.key))
        return None

    def _judge(self, overrides: Sequence[str]) -> None:
        """Composes the single run from the overrides that can be, and adds what there is to say about it."""
        try:
            composed = self._session.compose(overrides)
        except Exception as error:
            self._lines.append(composition_line(error))
            return
        # Beside an option that does not exist only the root's numbers can be judged.
        self._lines += range_problems(composed.cfg) if self._misspelt else _judgement(composed)

    @cached_property
    def _default(self) -> DictConfig:
        try:
            return self._session.compose([]).cfg
        except Exception as error:
            raise ConfigError([composition_line(error)]) from error

    def _known_keys(self) -> list[str]:
        return _dotted(self._default)

    def _instead(self, word: str, cfg: DictConfig | None = None) -> str:
        keys = self._known_keys() if cfg is None else _dotted(cfg)
        group, _, last = word.rpartition(".")
        beside = [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")] if group else []
        if beside:
            return did_you_mean(last, beside, f"{group}.") or self._within(group, cfg or self._default)
        if group in self._groups:
            return f"{group} has no keys"
        close = did_you_mean(word, [*self._groups, *(key for key in keys if key not in self._groups)])
        return close or "python train.py --help lists the keys"

    def _within(self, group: str, cfg: DictConfig) -> str:
        keys = [key for key in _dotted(cfg) if key.startswith(f"{group}.")]
        return f"the keys of {group}: {', '.join(keys)}" if keys else f"{group} has no keys"

    def _set(self, key: str) -> str:
        if key not in self._known_keys():
            return self._instead(key)
        return f"write e.g. {key}={_text(OmegaConf.select(self._default, key))}"


def _judgement(composed: Composed) -> list[str]:
    try:
        return problems_of(composed.cfg, composed.origin) or folder_problems(composed.cfg, composed.folder)
    except OmegaConfBaseException as error:
        return [composition_line(error)]  # of Hydra's own node, which no check looks at


def _folder(args: argparse.Namespace, config_dir: Path) -> Path:
    """`--config-path` is absolute, or relative to the folder of train.py, which holds `config_dir`."""
    return config_dir if args.config_path is None else config_dir.parent / args.config_path


def _places(args: argparse.Namespace) -> list[str]:
    """Where configurations may lie beside the main folder: `hydra.searchpath`, then `--config-dir`."""
    lines = [line for line in args.overrides if key_of(line) == "hydra.searchpath"]
    try:
        found = OverridesParser.create().parse_overrides(lines)
    except HydraException:
        found = []  # told with the other problems
    places = [str(place) for override in found for place in _values(override)[0] or ()]
    if args.config_dir is None:
        return places
    extra = Path(args.config_dir)
    if not extra.is_dir():
        raise ConfigError([f"--config-dir {extra}: there is no such folder"])
    return [*places, f"file://{extra.resolve()}"]


def _dashed(token: str) -> str:
    bare = token.lstrip("-")
    return f"{token}: no such flag; settings have no dashes: write {bare if '=' in bare else f'{bare}=...'}"


def _is_hydra(line: str) -> bool:
    return key_of(line).lstrip("+~").startswith(("hydra.", "hydra/"))


def _values(override: Override) -> tuple[Any, ...]:
    """A sweep's values one by one; an interval has none to look at."""
    if not override.is_sweep_override():
        return (override.value(),)
    if not override.is_discrete_sweep():
        return ()
    found = override.sweep_iterator()
    return tuple(value.text if isinstance(value, QuotedString) else value for value in found)


def _dotted(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Every key below a node, dotted; Hydra's own (`_target_`) left out."""
    keys: list[str] = []
    for key in own_keys(cfg):
        keys.append(f"{prefix}{key}")
        plain = not (OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key))
        node = cfg[key] if plain else None
        keys += _dotted(node, f"{prefix}{key}.") if isinstance(node, DictConfig) else []
    return keys


def _listed(key: str, options: Sequence[str]) -> str:
    return ", ".join(f"{key}={name}" for name in options)


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _type_line(key: str, value: Any, example: Any) -> str:
    annotation = str(RootConfig.__annotations__.get(key, ""))
    expected = _EXPECTED.get(annotation, "another type of value")
    instead = "" if OmegaConf.is_config(example) or example is None else f"; write e.g. {key}={_text(example)}"
    return f"{key}={_text(value)}: expected {expected}{instead}"


def _syntax(line: str, error: Exception) -> str:
    key = key_of(line)
    raw = line.split("=", 1)[1] if "=" in line else ""
    reason = str(error).splitlines()[0].removeprefix("Error parsing override ")
    return f"{line}: cannot be read ({reason}); a value with special characters is quoted: \"{key}='{raw}'\""


def composition_line(error: BaseException) -> str:
    """Hydra's own words on one line, without its search path and its advice to use a plus sign."""
    lines = [line.strip() for part in (error, error.__cause__) if part is not None for line in str(part).splitlines()]
    kept = list(itertools.takewhile(lambda line: not line.startswith("Config search path"), lines))
    noise = ("To append to your", "full_key:", "object_type=", "See https://")
    return " ".join(line for line in kept if line and not line.startswith(noise)) or type(error).__name__
