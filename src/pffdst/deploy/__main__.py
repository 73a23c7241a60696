"""`pffdst deploy`: what a deployment over Flower needs beside Flower's own commands."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pffdst.core.errors import UserError, needs

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; gives the exit code."""
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
        print("Stopped, and everything that was started with it.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pffdst deploy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=run)
        return made

    certificates = command("certificates", _certificates, "make an authority and the server's certificate")
    certificates.add_argument("folder", type=Path)
    certificates.add_argument("--host", action="append", required=True, help="a name or address of the server")
    command("key", _key, "make a node's key pair: FILE and FILE.pub").add_argument("file", type=Path)
    run = command("run", _run, "start a run on a SuperLink of Flower's configuration, and show what it says")
    run.add_argument("superlink", help="its name in Flower's config.toml")
    run.add_argument("overrides", nargs="*", help="as for train.py")
    samples = command("samples", _samples, "write a simulated division out, a parquet file for each client")
    samples.add_argument("folder", type=Path)
    samples.add_argument("overrides", nargs="*", help="as for train.py")
    demo = command("demo", _demo, "a whole federation on this machine, one run on it, and the same in simulation")
    demo.add_argument("--folder", type=Path, help="where its files stay; else they are deleted")
    demo.add_argument("--nodes", type=int, default=4)
    demo.add_argument("overrides", nargs="*", help="as for train.py")
    return parser


def _certificates(given: argparse.Namespace) -> int:
    from pffdst.deploy.keys import make_certificates

    if (given.folder / "server.key").exists():
        raise UserError(f"{given.folder} holds a server's key already: name another folder")
    made = make_certificates(given.folder, given.host)
    print(f"to the nodes: {made.ca}\nfor the SuperLink alone: {made.certificate}, {made.key}")
    return 0


def _key(given: argparse.Namespace) -> int:
    from pffdst.deploy.keys import make_node_key

    if given.file.exists():
        raise UserError(f"{given.file} is there already: name another file")
    print(f"for the node alone: {given.file}\nto the SuperLink's operator: {make_node_key(given.file)}")
    return 0


def _run(given: argparse.Namespace) -> int:
    from pffdst.deploy.bundle import write_app, write_overrides

    with tempfile.TemporaryDirectory() as place:
        told = write_overrides(Path(place) / "run.toml", given.overrides)
        app = write_app(Path(place) / "app")
        return subprocess.call(["flwr", "run", str(app), given.superlink, "--stream", "--run-config", str(told)])


def _samples(given: argparse.Namespace) -> int:
    from pffdst.cli.train import configs
    from pffdst.config.compose import compose
    from pffdst.deploy.samples import write_samples

    for path in write_samples(compose(given.overrides, configs()), given.folder):
        print(path)
    return 0


def _demo(given: argparse.Namespace) -> int:
    import flwr.app  # noqa: F401 - says what to install, before anything is made

    from pffdst.deploy.demo import demo

    if given.folder is not None:
        return demo(given.folder, given.overrides, given.nodes)
    with tempfile.TemporaryDirectory(prefix="pffdst-") as place:
        return demo(Path(place), given.overrides, given.nodes)


if __name__ == "__main__":
    sys.exit(main())
