"""What a run's folder may say: settings and options that are installed here, and nothing that names code or places.

A folder is data, whoever made it. What its saved command line asks beyond that is the user's to say himself.
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
    "places_of",
    "plain_settings",
    "refuse_the_folders_own",
    "saved_problems",
    "searched",
]

_MOST_LINES, _MOST_TEXT = 1000, 10_000
_KEY = re.compile(r"\+{0,2}[A-Za-z_][\w\-]*(\.[\w\-]+|\[[\w\-]+\])*")
_RESOLVER = re.compile(r"\$\{[^{}]*:")
_SPECIAL = re.compile(r"(?<![A-Za-z0-9])_[a-z]+_(?![A-Za-z0-9])")
_TARGET = re.compile(r"^[\s\-]*_target_:\s*['\"]?([\w.]+)", re.MULTILINE)
_WRITTEN = (LOG, LOCK, HYDRA_JOB, HYDRA_SETTINGS, OVERRIDES)  # in place; all else is written aside and renamed
_HARMLESS = frozenset({"hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "hydra.verbose"})
_OWN = "if you mean it, write it on your own command line"


def refuse_the_folders_own(expanded: Expanded, opened: Session, line: CommandLine, config_dir: Path) -> None:
    """ConfigError where the folder that is resumed says more than settings; before anything it says is composed."""
    folder, own = expanded.folder, line.own_configs(config_dir)
    if folder is None:
        return
    main = config_dir if line.args.config_path is None else config_dir.parent / line.args.config_path
    named = [place.removeprefix("file://") for place in searched(line) if not place.startswith("pkg:")]
    places = [main, *([own] if own is not None else ()), *map(Path, named)]
    problems = _odd_places(folder)
    problems += [f"{folder / OVERRIDES}: {why}" for why in saved_problems(expanded.saved, opened, places)]
    if own is not None and line.args.config_dir is None and own.resolve().is_relative_to(folder.resolve()):
        problems.append(f"{own.resolve()}: a run's folder brings no configurations; call this from another folder")
    again = [word for word in places_of(folder) if word not in line.argv]
    if problems and again:
        problems.append(f"the run was started with {shlex.join(again)}: add it if you trust what lies there")
    if problems:
        raise ConfigError(problems)


def _odd_places(folder: Path) -> list[str]:
    """What a run writes in place and did not make: through a link it would write outside the folder."""
    odd = []
    for path, is_kind in [
        *((folder / name, Path.is_dir) for name in (HYDRA, CHECKPOINTS)),
        *((folder / name, Path.is_file) for name in _WRITTEN),
    ]:
        if path.is_symlink():
            odd.append(f"{path}: it is a link, which a run would write through; put there what it leads to")
        elif path.exists() and not is_kind(path):
            odd.append(f"{path}: it is no regular {'file' if is_kind is Path.is_file else 'folder'}")
    return odd


def searched(line: CommandLine) -> list[str]:
    """The places of `hydra.searchpath`, as typed."""
    lines = [override for override in line.args.overrides if key_of(override) == "hydra.searchpath"]
    try:
        found = OverridesParser.create().parse_overrides(lines)
    except HydraException:
        return []  # told with the other problems
    values: list[Any] = [override.value() for override in found]
    return [str(place) for value in values for place in value or ()]


def known_targets(folders: Sequence[Path]) -> frozenset[str]:
    """Every `_target_` that a yaml below these folders names."""
    found: set[str] = set()
    for path in (path for folder in folders for path in folder.rglob("*.yaml") if path.is_file()):
        found.update(_TARGET.findall(path.read_text(encoding="utf-8", errors="replace")))
    return frozenset(found)


def node_problems(node: Any, folders: Sequence[Path]) -> list[str]:
    """What a node from a run's folder names that no configuration in `folders` does: classes, Hydra's own words.

    Neither may it read anything of this machine, as `${oc.env:NAME}` would.
    """
    given = list(_special(node))
    known = known_targets(folders) if given else frozenset()
    return [
        f"it names {key}={str(value)[:100]}, which no installed configuration does"
        for key, value in given
        if key != "_target_" or value not in known
    ] + (["it reads something of this machine, by ${...:...}"] if _RESOLVER.search(str(node)) else [])


def saved_problems(saved: Sequence[str], opened: Session, folders: Sequence[Path]) -> list[str]:
    """Why the saved command line of a folder is not taken: a line for each of its lines that is more than settings.

    `folders` are those of the configurations that are installed or that the user named.
    """
    if len(saved) > _MOST_LINES or any(len(line) > _MOST_TEXT for line in saved):
        return [f"its saved command line has more than {_MOST_LINES} lines, or one of more than {_MOST_TEXT} letters"]
    groups = opened.groups()
    return [f"{line[:200]}: {why}" for line in saved for why in _line_problems(line, opened, groups, folders)]


def plain_settings(saved: Sequence[str]) -> tuple[list[str], list[str]]:
    """The saved lines of a folder that are settings, and the others, which no command that it is told in may hold.

    The others set what is Hydra's own, name code, or read something of this machine.
    """
    plain = [line for line in saved if _is_plain(line)]
    return plain, [line for line in saved if line not in plain]


def _is_plain(line: str) -> bool:
    return "=" in line and _beyond_settings(line) is None and _SPECIAL.search(line) is None


def _beyond_settings(line: str) -> str | None:
    """Why a folder's line is more than a setting, as far as its letters tell."""
    key = key_of(line)
    bare = key.lstrip("+")
    if bare.startswith(("hydra.", "hydra/", "~hydra")) and bare not in _HARMLESS:
        return f"no folder sets what is Hydra's own; {_OWN}"
    if not _KEY.fullmatch(key):
        return f"this is no key of a setting; {_OWN}"
    if _RESOLVER.search(line):
        return f"a folder reads nothing of this machine; write {bare}=VALUE on your own command line"
    return None


def places_of(folder: Path) -> list[str]:
    """The words of its command line by which a run found configurations of its user's own, as its folder tells them."""
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
        return [f"there is no such option here; {_OWN}, with the folder it lies in: --config-dir DIR"] if odd else []
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
