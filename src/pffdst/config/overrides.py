"""Checks the command line before Hydra does: reports all its problems at once, each with what to write."""

from __future__ import annotations

import codecs
import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pffdst.config.check import ConfigError, problems_of
from pffdst.config.compose import Composed, Session, composition_line, session
from pffdst.config.constructors import did_you_mean, expected_type, own_keys, takes_key
from pffdst.config.flags import CommandLine, key_of
from pffdst.config.ranges import range_problems
from pffdst.config.resume import expand, folder_problems
from pffdst.config.schema import RootConfig, groups
from pffdst.config.sweeps import Jobs, preset_lines
from pffdst.config.trust import refuse_the_folders_own, searched
from pffdst.core.program import command_line
from pffdst.core.words import typed

__all__ = ["opened_for", "preflight", "sweep_problems"]

_PRESETS = ("method", "experiment")


def preflight(argv: Sequence[str], config_dir: Path) -> list[str]:
    """The arguments to pass to Hydra: flags untouched, `resume=PATH` expanded, added keys with `++`.

    The configuration of a single run, and of every job of a sweep (`-m`), is composed and checked.

    Raises:
        ConfigError: with every problem found.
    """
    line = CommandLine.of(argv)
    if line.asks:
        return line.handed_on(line.overrides, config_dir)
    expanded = expand(line.overrides, line.multirun)
    with opened_for(line, config_dir) as opened:
        refuse_the_folders_own(expanded, opened, line, config_dir)
        look = _Look(opened, line.multirun)
        overrides = look.at(expanded.overrides, whole=not line.shows)
    problems = [*line.problems(), *expanded.problems, *look.problems]
    if problems:
        raise ConfigError(list(dict.fromkeys([*_marked(line.own_configs(config_dir)), *problems])))
    return line.handed_on(overrides, config_dir)


def opened_for(line: CommandLine, config_dir: Path) -> AbstractContextManager[Session]:
    """Hydra, opened on the folders that a command line names."""
    args = line.args
    # `--config-path` is absolute, or relative to the folder of train.py, which holds `config_dir`.
    folder = config_dir if args.config_path is None else config_dir.parent / args.config_path
    return session(folder, args.config_name or "train", _places(line, config_dir))


def sweep_problems(opened: Session, overrides: Sequence[str]) -> list[str]:
    """Why a sweep over these overrides would be rejected: keys, options in every combination, types."""
    look = _Look(opened, multirun=True)
    look.at(overrides, whole=False)
    return list(dict.fromkeys(look.problems))


@final
@dataclass(frozen=True)
class _Given:
    """One parsed override: its `plus` signs and its value, or a sweep's values one by one."""

    line: str
    plus: str
    key: str
    values: tuple[Any, ...]
    swept: bool

    def written(self, value: Any) -> str:
        """The override with one of its values, as Hydra takes it."""
        if value is None:
            return f"{self.key}=[]"
        return f"{self.key}={typed(value)}" if self.swept else self.line


@final
class _Look:
    """The check of one command line; `problems` are what it found."""

    def __init__(self, opened: Session, multirun: bool) -> None:
        self.problems: list[str] = []
        self._session = opened
        self._groups = opened.groups()
        self._kinds = groups()
        self._parser = OverridesParser.create(config_loader=opened.loader)
        self._multirun = multirun
        self._misspelt: set[str] = set()
        self._added: set[str] = set()
        self._bases: dict[tuple[str, ...], Composed] = {}

    def at(self, overrides: Sequence[str], whole: bool) -> list[str]:
        """The overrides as Hydra takes them; with `whole`, the run they compose, or every job, is checked too."""
        hydra = [line for line in overrides if _is_hydra(line) and self._parsed(line) is not None]
        given = [item for line in overrides if not _is_hydra(line) for item in self._read(line)]
        presets = self._preset_sweep(given)
        options = [item for item in [*presets, *given] if item.key in self._groups and self._known_options(item)]
        keys = [item for item in [*presets, *given] if item.key not in self._groups]
        if not self.problems and not self._multirun and self._composes(overrides, whole):
            return list(overrides)
        bases = [base for chosen in _combined(options) if (base := self._base(chosen)) is not None]
        good = [item for item in keys if self._fits_all(item, bases)]
        if whole and bases and not self._multirun:
            self._judge([*(self._line(item) for item in [*options, *good]), *hydra])
        elif whole and bases and not self.problems:
            jobs = Jobs(self._session, self._parser, self._bases)
            self.problems += jobs.problems([self._line(item) for item in [*presets, *given]], hydra)
        taken = {item.line: self._line(item) for item in given}
        return [taken.get(line, line) for line in overrides]

    def _composes(self, overrides: Sequence[str], whole: bool) -> bool:
        """The fast path for a valid command line: if Hydra composes it, the keys need no separate check."""
        try:
            composed = self._session.compose(overrides)
        except Exception:
            return False  # the slow path reports why
        if whole:
            self.problems += _judgement(composed)
        return True

    def _line(self, item: _Given) -> str:
        """The override as Hydra takes it: no option is an empty list, and an added key has two plus signs."""
        if item.key in self._groups and None in item.values:
            return f"{item.key}={','.join('[]' if value is None else typed(value) for value in item.values)}"
        bare = item.line.lstrip("+")
        return f"++{bare}" if item.key in self._added else bare

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _read(self, line: str) -> Iterator[_Given]:
        """The parsed override; nothing, and a problem line, if it is not accepted."""
        refused = self._refused(line)
        if refused is not None:
            self.problems.append(refused)
            return
        override = self._parsed(line)
        if override is None:
            return
        if override.is_sweep_override() and not self._multirun:
            raw, sweep = line.split("=", 1)[1], command_line("train", ["-m", line])
            self.problems.append(f"{line}: several values need -m ({sweep}); write a list as [{raw}]")
            return
        plus = line[: len(line) - len(line.lstrip("+"))]
        try:
            values = _values(override)
        except (ValueError, ArithmeticError) as error:
            key = override.key_or_group
            self.problems.append(f"{line}: a sweep cannot use these values ({error}); write e.g. {key}=0,1,2")
            return
        yield _Given(line, plus, override.key_or_group, values, override.is_sweep_override())

    def _parsed(self, line: str) -> Override | None:
        try:
            return self._parser.parse_overrides([line])[0]
        except HydraException as error:
            self.problems.append(_syntax(line, error))
            return None

    def _refused(self, line: str) -> str | None:
        """The problem of an override that deletes a key, adds an option, or has no `=`."""
        bare = line.lstrip("+~")
        key = key_of(bare)
        if line.startswith("~"):
            off = f"write {key}=null" if self._may_be_off(key) else self._set(key)
            listed = _listed(key, self._session.options(key)) if key in self._groups else ""
            instead = f"choose an option: {listed}" if listed and not self._may_be_off(key) else off
            return f"{line}: keys cannot be removed; {instead}"
        if line.startswith("+") and key in self._groups:
            return f"{line}: options are chosen without a plus sign; write {bare}"
        if "=" not in line:
            return f"{line}: expected key=value, such as sparsity=0.95; {self._set(bare)}"
        return None

    def _preset_sweep(self, given: Sequence[_Given]) -> list[_Given]:
        """The overrides that a `sweep=` preset adds; a problem line if it is given without -m."""
        presets = [item for item in given if item.key == "sweep" and self._has(item)]
        if not presets:
            return []
        if not self._multirun:
            line = presets[-1].line
            self.problems.append(f"{line}: a sweep is started with -m; write {command_line('train', ['-m', line])}")
            return []
        typed_keys = {item.key for item in given}
        lines = preset_lines(self._session.compose([presets[-1].line]).hydra)
        return [item for line in lines for item in self._read(line) if item.key not in typed_keys]

    # ---- options -----------------------------------------------------------------------------------------------------

    def _has(self, item: _Given) -> bool:
        return all(str(value) in self._session.options(item.key) for value in item.values)

    def _may_be_off(self, group: str) -> bool:
        """Whether null is allowed: the main yaml has it, or the schema allows it."""
        kind = self._kinds.get(group)
        return (kind is not None and kind.optional) or (
            group in self._groups and self._default.choices.chosen.get(group, "") is None
        )

    def _known_options(self, item: _Given) -> bool:
        """Whether every value is one of the group's options."""
        options = self._session.options(item.key)
        kind = self._kinds.get(item.key)
        several = kind is not None and kind.several
        single = [one for value in item.values for one in (value if several and isinstance(value, list) else [value])]
        unknown = [one for one in single if str(one) not in options]
        wrong = [one for one in unknown if one is not None or not self._may_be_off(item.key)]
        for value in wrong:
            close = did_you_mean(str(value), options)
            at = self._one(item, value)
            self.problems.append(
                f"{at}: no such option; {close}{' ' if close else ''}options: {_listed(item.key, options)}"
            )
        self._misspelt |= {item.key} if wrong else set()
        return not wrong

    def _one(self, item: _Given, value: Any) -> str:
        return item.line if value in item.values and not item.swept else f"{item.key}={typed(value)}"

    def _base(self, chosen: tuple[str, ...]) -> Composed | None:
        """The configuration of a combination of options."""
        if chosen not in self._bases:
            try:
                self._bases[chosen] = self._session.compose(chosen)
            except Exception as error:
                self.problems.append(composition_line(error))
                return None
        return self._bases[chosen]

    # ---- keys --------------------------------------------------------------------------------------------------------

    def _fits_all(self, item: _Given, bases: Sequence[Composed]) -> bool:
        """Whether the key exists and takes every value, whatever options it is combined with."""
        before = len(self.problems)
        for base, value in itertools.product(bases, item.values):
            line = self._unfit(item, value, base)
            if line is not None and line not in self.problems:
                self.problems.append(line)
        return len(self.problems) == before

    def _unfit(self, item: _Given, value: Any, base: Composed) -> str | None:
        cfg, there = base.cfg, item.key in _dotted(base.cfg)
        if there and item.plus == "+":
            return f"{item.line}: keys are set without a plus sign; write {item.line.lstrip('+')}"
        if not there and not takes_key(cfg, item.key, any_keyword=bool(item.plus)):
            return self._no_such_key(item, base)
        self._added |= set() if there else {item.key}
        try:
            OmegaConf.update(copy.deepcopy(cfg), item.key, value, merge=True, force_add=not there)
        except OmegaConfBaseException:
            return _type_line(item.key, value, OmegaConf.select(self._default.cfg, item.key))
        return None

    def _no_such_key(self, item: _Given, base: Composed) -> str | None:
        group, dot, _ = item.key.partition(".")
        if dot and self._misspelt & {group, *_PRESETS}:
            return None  # it may belong to the intended option
        if takes_key(base.cfg, item.key, any_keyword=True):
            return f"{item.key}: the option does not list it, but accepts any key; write +{item.line}"
        if item.plus:
            return f"{item.line}: new keys cannot be added; {self._instead(item.key, base.cfg)}"
        if item.key in self._known_keys():
            beside = base.choices.called(group, base.cfg.get(group))
            return f"{item.key}: with {beside} there is no such key; {self._within(group, base.cfg)}"
        return f"{item.key}: there is no such key; {self._instead(item.key, base.cfg)}"

    @cached_property
    def _default(self) -> Composed:
        try:
            return self._session.compose([])
        except Exception as error:
            raise ConfigError([composition_line(error)]) from error

    def _known_keys(self) -> list[str]:
        return _dotted(self._default.cfg)

    def _instead(self, word: str, cfg: DictConfig) -> str:
        keys = _dotted(cfg)
        group, _, last = word.rpartition(".")
        beside = [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")] if group else []
        if beside:
            return did_you_mean(last, beside, f"{group}.") or self._within(group, cfg)
        top = word.partition(".")[0]
        if top in self._groups:
            return self._within(top, cfg)
        close = did_you_mean(word, [*self._groups, *(key for key in keys if key not in self._groups)])
        return close or f"{command_line('train', ['--help'])} lists the keys"

    def _within(self, group: str, cfg: DictConfig) -> str:
        keys = [key for key in _dotted(cfg) if key.startswith(f"{group}.")]
        return f"the keys of {group}: {', '.join(keys)}" if keys else f"{group} has no keys"

    def _set(self, key: str) -> str:
        if key not in self._known_keys():
            return self._instead(key, self._default.cfg)
        return f"write e.g. {key}={typed(OmegaConf.select(self._default.cfg, key))}"

    # ---- the run, or every job ---------------------------------------------------------------------------------------

    def _judge(self, overrides: Sequence[str]) -> None:
        """Composes the single run from the valid overrides and adds its problems."""
        try:
            composed = self._session.compose(overrides)
        except Exception as error:
            self.problems.append(composition_line(error))
            return
        # With an option that does not exist, only the root's numbers can be checked.
        self.problems += range_problems(composed.cfg) if self._misspelt else _judgement(composed)


def _judgement(composed: Composed) -> list[str]:
    try:
        return problems_of(composed.cfg, composed.choices) or folder_problems(composed.cfg, composed.folder)
    except OmegaConfBaseException as error:
        return [composition_line(error)]  # in Hydra's own node, which is not checked


def _combined(options: Sequence[_Given]) -> Iterator[tuple[str, ...]]:
    return itertools.product(*([item.written(value) for value in item.values] for item in options))


def _places(line: CommandLine, config_dir: Path) -> list[str]:
    """Where configurations may be besides the main folder: `hydra.searchpath`, then the user's own folder."""
    places = searched(line)
    own = line.own_configs(config_dir)
    if own is None:
        return places
    if not own.is_dir():
        raise ConfigError([f"--config-dir {own}: there is no such folder"])
    return [*places, f"file://{own.resolve()}"]


def _marked(own: Path | None) -> list[str]:
    """The user's files that begin with a byte order mark, which hides the header from Hydra."""
    found = [path for path in sorted(own.rglob("*.yaml")) if path.is_file()] if own is not None else []
    marked = [path for path in found if path.read_bytes().startswith(codecs.BOM_UTF8)]
    return [f"{path}: it begins with a byte order mark; save it as UTF-8 without one" for path in marked]


def _is_hydra(line: str) -> bool:
    return key_of(line).lstrip("+~").startswith(("hydra.", "hydra/"))


def _values(override: Override) -> tuple[Any, ...]:
    """A sweep's values one by one; none for an interval."""
    if not override.is_sweep_override():
        return (override.value(),)
    if not override.is_discrete_sweep():
        return ()
    found = override.sweep_iterator()
    return tuple(value.text if isinstance(value, QuotedString) else value for value in found)


def _dotted(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Every key below a node, dotted, without Hydra's own (`_target_`)."""
    keys: list[str] = []
    for key in own_keys(cfg):
        keys.append(f"{prefix}{key}")
        plain = not (OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key))
        node = cfg[key] if plain else None
        keys += _dotted(node, f"{prefix}{key}.") if isinstance(node, DictConfig) else []
    return keys


def _listed(key: str, options: Sequence[str]) -> str:
    return ", ".join(f"{key}={name}" for name in options)


def _type_line(key: str, value: Any, example: Any) -> str:
    hint = get_type_hints(RootConfig).get(key, Any)
    expected = "another type of value" if hint is Any else expected_type(hint)
    instead = "" if OmegaConf.is_config(example) or example is None else f"; write e.g. {key}={typed(example)}"
    return f"{key}={typed(value)}: expected {expected}{instead}"


def _syntax(line: str, error: Exception) -> str:
    key = key_of(line)
    raw = line.split("=", 1)[1] if "=" in line else ""
    reason = str(error).splitlines()[0].removeprefix("Error parsing override ")
    if raw[:1] == "[" and raw[-1:] == "]":
        items = ",".join("'" + item.strip().strip("'") + "'" for item in raw[1:-1].split(","))
        return f'{line}: cannot be read ({reason}); quote items with special characters: "{key}=[{items}]"'
    return f"{line}: cannot be read ({reason}); quote a value with special characters: \"{key}='{raw}'\""
