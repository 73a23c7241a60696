"""`pffdst deploy`: what a deployment over Flower needs besides Flower's own commands."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pffdst.core.errors import UserError, needs

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        return int(given.command(given))
    except UserError as error:
        print(str(error), file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(str(needs("pffdst deploy", error, "deploy")), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped, with everything it started.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pffdst deploy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=run)
        return made

    certificates = command("certificates", _certificates, "create an authority and the server's certificate")
    certificates.add_argument("folder", type=Path)
    certificates.add_argument("--host", action="append", required=True, help="a name or address of the server")
    command("key", _key, "create a node's key pair: FILE and FILE.pub").add_argument("file", type=Path)
    run = command("run", _run, "start a run on a SuperLink from Flower's configuration and show its output")
    run.add_argument("superlink", help="its name in Flower's config.toml")
    run.add_argument("overrides", nargs=argparse.REMAINDER, help="as for train.py, flags of Hydra too")
    survey = command("survey", _survey, "ask the nodes for their sample counts per class and write them to a table")
    survey.add_argument("superlink", help="its name in Flower's config.toml")
    survey.add_argument("counts", type=Path, help="the table to write: client,class,samples")
    survey.add_argument("--clients", type=int, required=True)
    survey.add_argument("--channels", type=int, choices=(1, 3), default=0, help="channels that images are converted to")
    survey.add_argument("--resize", type=int, default=0, help="pixels per side that images are resized to")
    survey.add_argument("--crop", action="store_true", help="cut out the central square first")
    survey.add_argument("--wait", type=float, default=120.0, help="seconds for nodes to connect and answer (120)")
    samples = command("samples", _samples, "write a simulated partition, one parquet file per client")
    samples.add_argument("folder", type=Path)
    samples.add_argument("overrides", nargs="*", help="as for train.py")
    demo = command("demo", _demo, "a complete federation on this machine: one run on it, and the same run simulated")
    demo.add_argument("--folder", type=Path, help="where to keep its files; otherwise they are deleted")
    demo.add_argument("--nodes", type=int, default=4)
    demo.add_argument("overrides", nargs="*", help="as for train.py")
    return parser


def _certificates(given: argparse.Namespace) -> int:
    from pffdst.deploy.keys import make_certificates

    if (given.folder / "server.key").exists():
        raise UserError(f"{given.folder} already contains a server key: name another folder")
    made = make_certificates(given.folder, given.host)
    print(f"for the nodes: {made.ca}\nonly for the SuperLink: {made.certificate}, {made.key}")
    return 0


def _key(given: argparse.Namespace) -> int:
    from pffdst.deploy.keys import make_node_key

    if given.file.exists():
        raise UserError(f"{given.file} already exists: name another file")
    print(f"only for the node: {given.file}\nfor the SuperLink's operator: {make_node_key(given.file)}")
    return 0


def _run(given: argparse.Namespace) -> int:
    from pffdst.config.flags import CommandLine
    from pffdst.deploy.bundle import write_overrides

    if CommandLine.of(given.overrides).multirun:
        raise UserError("a deployed run is one run: start each job of a sweep with its own `pffdst deploy run`")
    return _started(given.superlink, lambda path: write_overrides(path, given.overrides))


def _survey(given: argparse.Namespace) -> int:
    from pffdst.deploy.bundle import write_survey

    counts = given.counts.absolute()
    if counts.exists():
        raise UserError(f"{counts} already exists: name another file")
    if given.clients < 1 or given.resize < 0 or not given.wait > 0:
        raise UserError("expected --clients of 1 or more, --resize in pixels and --wait in seconds")
    names = ("clients", "channels", "resize", "crop", "wait")
    ask = {name: getattr(given, name) for name in names} | {"counts": str(counts)}
    code = _started(given.superlink, lambda path: write_survey(path, ask))
    return code or int(not counts.exists())


def _started(superlink: str, write: Callable[[Path], Path]) -> int:
    """Runs the apps with the configuration that `write` creates; returns 0 if the run completed."""
    from pffdst.deploy.bundle import write_app
    from pffdst.deploy.commands import run_to_the_end

    with tempfile.TemporaryDirectory() as place:
        told, app = write(Path(place) / "run.toml"), write_app(Path(place) / "app")
        return run_to_the_end(superlink, app, told)


def _samples(given: argparse.Namespace) -> int:
    from pffdst.deploy.samples import checked, write_samples

    for path in write_samples(checked(given.overrides), given.folder):
        print(path)
    return 0


def _demo(given: argparse.Namespace) -> int:
    import flwr.app  # noqa: F401 - reports what to install before anything is created

    from pffdst.deploy.demo import demo

    if given.folder is not None:
        return demo(given.folder, given.overrides, given.nodes)
    with tempfile.TemporaryDirectory(prefix="pffdst-") as place:
        return demo(Path(place), given.overrides, given.nodes)


if __name__ == "__main__":
    sys.exit(main())
