"""A finished run's model for other programs: `python -m pffdst export RUN --to plain|sparse|pt2|onnx`.

plain   safetensors, every tensor whole under its own name: load_state_dict takes it as it is
sparse  torch.save of a state dict whose sparse weights are CSR matrices [out, in * kernel]
pt2     torch.export: uint8 images [B, C, H, W], or padded tokens [B, length], to logits; needs torch alone to run
onnx    the same for ONNX runtimes; needs pip install 'pffdst[onnx]'
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from pffdst.core.errors import UserError, needs
from pffdst.metrics.units import format_bytes
from pffdst.models.saved import Classifier, SavedModel, path_of
from pffdst.runs.files import CONFIG, METRICS, MODEL, MODEL_AVERAGE, PROVENANCE, RUN, SUMMARY, write_whole
from pffdst.runs.foreign import foreign

__all__ = ["FORMATS", "export", "main"]

_OF_A_RUN = (MODEL, MODEL_AVERAGE, CONFIG, METRICS, SUMMARY, RUN, PROVENANCE)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file and prints its name and size; returns 2 if there is no such model or format."""
    parser = argparse.ArgumentParser(
        prog="python -m pffdst export",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a finished run's folder, or a model's file")
    parser.add_argument("--to", required=True, choices=sorted(FORMATS), help="the format")
    parser.add_argument("-o", "--output", type=Path, help="the file; default: model.FORMAT... in the run's folder")
    parser.add_argument("--average", action="store_true", help="use the server average instead of the last model")
    given = parser.parse_args(argv)
    try:
        source = path_of(given.run, average=given.average)
        wanted = given.output or source.with_suffix(FORMATS[given.to][0])
        if wanted.exists() and wanted.name in _OF_A_RUN:
            raise UserError(f"{wanted}: that is a file of a run; name another with -o FILE")
        path = export(SavedModel.read(source), given.to, wanted)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    size, original = path.stat().st_size, source.stat().st_size
    print(foreign(f"{path} ({format_bytes(size)}; {source.name} has {format_bytes(original)})").plain)
    return 0


def export(saved: SavedModel, to: str, path: Path) -> Path:
    """Writes the model in one of FORMATS and returns the path.

    Raises:
        UserError: the network cannot be built, or a package that the format needs is not installed.
    """
    if path.is_symlink():  # in someone else's folder it may point to any of our files
        path.unlink()
    elif path.exists() and not path.is_file():
        raise UserError(f"{path}: it is not a regular file; name another with -o FILE")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = io.BytesIO()  # where a disk is full, torch's own writers end in errors of C++, or the process
    FORMATS[to][1](saved, made)
    write_whole(path, made.getbuffer())
    return path


def _plain(saved: SavedModel, file: BinaryIO) -> None:
    file.write(saved.plain())


def _sparse(saved: SavedModel, file: BinaryIO) -> None:
    """CSR for weights with dead positions, with int32 indices: 8 bytes per alive weight."""
    torch.save({name: _compressed(tensor, saved.alive.get(name)) for name, tensor in saved.tensors.items()}, file)


def _compressed(tensor: Tensor, alive: Tensor | None) -> Tensor:
    if alive is None or bool(alive.all()):
        return tensor
    mask = alive.flatten(1)
    rows = torch.zeros(len(mask) + 1, dtype=torch.int32)
    rows[1:] = mask.sum(dim=1).cumsum(0)
    columns = mask.nonzero()[:, 1].to(torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            rows, columns, tensor.flatten(1)[mask], size=tuple(mask.shape), check_invariants=True
        )


def _pt2(saved: SavedModel, file: BinaryIO) -> None:
    model, images = _example(saved)
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes={"samples": {0: batch}}), file)


def _onnx(saved: SavedModel, file: BinaryIO) -> None:
    try:
        import onnx  # noqa: F401 - torch needs both, but would only fail halfway through
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise needs("--to onnx", error, "onnx") from error
    model, images = _example(saved)
    program = torch.onnx.export(
        model,
        (images,),
        input_names=[saved.card.inputs.noun],
        output_names=["logits"],
        dynamic_shapes={"samples": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    file.write(program.model_proto.SerializeToString())


def _example(saved: SavedModel) -> tuple[Classifier, Tensor]:
    """The module to trace and a batch of two samples: with one, a tracer would treat the 1 as a constant."""
    return saved.tried(), saved.card.inputs.raw(2)


FORMATS: Final[dict[str, tuple[str, Callable[[SavedModel, BinaryIO], None]]]] = {
    "plain": (".plain.safetensors", _plain),
    "sparse": (".sparse.pt", _sparse),
    "pt2": (".pt2", _pt2),
    "onnx": (".onnx", _onnx),
}
"""By name: the file's suffix and the function that writes it."""
