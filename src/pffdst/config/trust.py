"""What a run's folder may contain: settings and options that are installed here, nothing that names code or paths.

A folder is data, whoever made it. Anything else on its saved command line must be typed by the user.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pffdst.config.check import ConfigError
from pffdst.config.compose import Session
from pffdst.config.flags import CommandLine, key_of
from pffdst.config.resume import Expanded
from pffdst.core.words import typed
from pffdst.runs.files import (
    CHECKPOINTS,
    HYDRA,
    HYDRA_JOB,
    HYDRA_SETTINGS,
    LOCK,
    LOG,
    OVERRIDES,
    FileProblem,
    read_yaml,
)

__all__ = [
    "known_targets",
    "node_problems",
    "plain_settings",
    "recorded_places",
    "refuse_the_folders_own",
    "saved_problems",
    "searched",
]

_MOST_LINES, _MOST_TEXT = 1000, 10_000
_KEY = re.compile(r"\+{0,2}[A-Za-z_][\w\-]*(\.[\w\-]+|\[[\w\-]+\])*")
_RESOLVER = re.compile(r"\$\{[^{}]*:")
_SPECIAL = re.compile(r"(?<![A-Za-z0-9])_[a-z]+_(?![A-Za-z0-9])")
_TARGET = re.compile(r"^[\s\-]*_target_:\s*['\"]?([\w.]+)", re.MULTILINE)
_WRITTEN = (LOG, LOCK, HYDRA_JOB, HYDRA_SETTINGS, OVERRIDES)  # in place; all other files are written aside and renamed
_HARMLESS = frozenset({"hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "hydra.verbose"})
_OWN = "if this is intended, write it on your own command line"


def refuse_the_folders_own(expanded: Expanded, opened: Session, line: CommandLine, config_dir: Path) -> None:
    """ConfigError if the resumed folder contains more than settings, before any of it is composed."""
    folder, own = expanded.folder, line.own_configs(config_dir)
    if folder is None:
        return
    main = config_dir if line.args.config_path is None else config_dir.parent / line.args.config_path
    named = [place.removeprefix("file://") for place in searched(line) if not place.startswith("pkg:")]
    places = [main, *([own] if own is not None else ()), *map(Path, named)]
    problems = _odd_places(folder)
    problems += [f"{folder / OVERRIDES}: {why}" for why in saved_problems(expanded.saved, opened, places)]
    if own is not None and line.args.config_dir is None and own.resolve().is_relative_to(folder.resolve()):
        problems.append(f"{own.resolve()}: a run's folder cannot provide configurations; run this from another folder")
    again = [word for word in recorded_places(folder) if word not in line.argv]
    if problems and again:
        problems.append(f"the run was started with {shlex.join(again)}: add it if you trust what is there")
    if problems:
        raise ConfigError(problems)


def _odd_places(folder: Path) -> list[str]:
    """Paths that a run writes in place but did not create: through a link it would write outside the folder."""
    odd = []
    for path, is_kind in [
        *((folder / name, Path.is_dir) for name in (HYDRA, CHECKPOINTS)),
        *((folder / name, Path.is_file) for name in _WRITTEN),
    ]:
        if path.is_symlink():
            odd.append(f"{path}: it is a link, and a run would write through it; replace it with its target")
        elif path.exists() and not is_kind(path):
            odd.append(f"{path}: it is not a regular {'file' if is_kind is Path.is_file else 'folder'}")
    return odd


def searched(line: CommandLine) -> list[str]:
    """The entries of `hydra.searchpath`, as typed; none if it is not a list, which is reported elsewhere."""
    lines = [override for override in line.overrides if key_of(override) == "hydra.searchpath"]
    try:
        values = [override.value() for override in OverridesParser.create().parse_overrides(lines)]
    except HydraException:
        return []
    return [str(place) for value in values if isinstance(value, list) for place in value]


def known_targets(folders: Sequence[Path]) -> frozenset[str]:
    """Every `_target_` that a yaml below these folders names."""
    found: set[str] = set()
    for path in (path for folder in folders for path in folder.rglob("*.yaml") if path.is_file()):
        found.update(_TARGET.findall(path.read_text(encoding="utf-8", errors="replace")))
    return frozenset(found)


def node_problems(node: Any, folders: Sequence[Path]) -> list[str]:
    """What a node from a run's folder names but no configuration in `folders` does: classes, Hydra's own keys.

    It must not read anything from this machine either, as `${oc.env:NAME}` would.
    """
    given = list(_special(node))
    known = known_targets(folders) if given else frozenset()
    return [
        f"it names {key}={str(value)[:100]}, which no installed configuration does"
        for key, value in given
        if key != "_target_" or value not in known
    ] + (["it reads something from this machine through ${...:...}"] if _RESOLVER.search(str(node)) else [])


def saved_problems(saved: Sequence[str], opened: Session, folders: Sequence[Path]) -> list[str]:
    """Why a folder's saved command line is rejected: one problem for each line that is more than a setting.

    `folders` are the configuration folders that are installed or that the user named.
    """
    if len(saved) > _MOST_LINES or any(len(line) > _MOST_TEXT for line in saved):
        return [f"its saved command line has more than {_MOST_LINES} lines, or one over {_MOST_TEXT} characters"]
    groups = opened.groups()
    return [f"{line[:200]}: {why}" for line in saved for why in _line_problems(line, opened, groups, folders)]


def plain_settings(saved: Sequence[str]) -> tuple[list[str], list[str]]:
    """A folder's saved lines that are settings, and the others, which a suggested command must not include.

    The others set Hydra's own keys, name code, or read something from this machine.
    """
    plain = [line for line in saved if _is_plain(line)]
    return plain, [line for line in saved if line not in plain]


def _is_plain(line: str) -> bool:
    return "=" in line and _beyond_settings(line) is None and _SPECIAL.search(line) is None


def _beyond_settings(line: str) -> str | None:
    """Why a folder's line is more than a setting, as far as its text shows."""
    key = key_of(line)
    bare = key.lstrip("+")
    if bare.startswith(("hydra.", "hydra/", "~hydra")) and bare not in _HARMLESS:
        return f"a folder must not set Hydra's own keys; {_OWN}"
    if not _KEY.fullmatch(key):
        return f"this is not the key of a setting; {_OWN}"
    if _RESOLVER.search(line):
        return f"a folder must not read anything from this machine; write {bare}=VALUE on your own command line"
    return None


def recorded_places(folder: Path) -> list[str]:
    """The command-line arguments that named the user's own configurations for a run, as its folder records them."""
    try:
        sources = read_yaml(folder / HYDRA_SETTINGS)["hydra"]["runtime"]["config_sources"]
        told = [(str(each["provider"]), str(each["path"]), str(each["schema"])) for each in sources]
    except (FileProblem, KeyError, TypeError):
        return []
    own = [word for provider, path, _ in told if provider == "command-line" for word in ("--config-dir", path)]
    searched = [f"{schema}://{path}" for provider, path, schema in told if "searchpath" in provider]
    return [*own, *([f"hydra.searchpath={typed(searched)}"] if searched else [])]


def _line_problems(line: str, opened: Session, groups: Sequence[str], folders: Sequence[Path]) -> list[str]:
    bare = key_of(line).lstrip("+")
    if bare in _HARMLESS:
        return []
    if (why := _beyond_settings(line)) is not None:
        return [why]
    try:
        value = OverridesParser.create().parse_override(line).value()
    except Exception as error:
        return [f"it cannot be read ({type(error).__name__})"]
    if bare in groups:
        options = opened.options(bare)
        odd = [one for one in (value if isinstance(value, list) else [value]) if str(one) not in options and one]
        return [f"there is no such option here; {_OWN}, with its folder: --config-dir DIR"] if odd else []
    node: Any = {bare.rpartition(".")[2]: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value}
    return [f"{why}; {_OWN}" for why in node_problems(node, folders)]


def _special(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key of the form `_name_`, at any depth, with its value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if str(key).startswith("_") and str(key).endswith("_"):
                yield str(key), value
            yield from _special(value)
    elif isinstance(node, list | tuple):
        for each in node:
            yield from _special(each)
