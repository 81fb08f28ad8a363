"""Writes programs in the formats of ONNX and of torch.export, and puts files where the user wants them."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Optional, get_args

import torch

from ..library_warnings import without_known_warnings
from ..optional import require
from .programs import Program


ExportFormat = Literal["onnx", "torch_export"]
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "torch_export": ".pt2"}
# The oldest that torch's exporter writes by itself. It converts to older ones, but fails to do so for a CLIP.
OLDEST_OPSET = 18


def check_format(format: ExportFormat, opset_version: Optional[int]) -> None:
    """
    Refuse a format that cannot be written.

    Args:
        format: the format.
        opset_version: the version of ONNX's operators; None: torch's default.

    Raises:
        ValueError: if there is no such format, or none of this version.
        ImportError: if the packages that write the format are not installed.
    """
    if format not in get_args(ExportFormat):
        raise ValueError(f"format={format!r} is unknown; it is one of {', '.join(get_args(ExportFormat))}.")
    if format != "onnx":
        if opset_version is not None:
            raise ValueError(
                f"opset_version={opset_version!r} is of ONNX's operators, but format={format!r} has none. Leave it "
                "out, or take format='onnx'."
            )
        return
    require("format='onnx'", "export", "onnx", "onnxscript")
    if opset_version is None:
        return
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not (isinstance(opset_version, int) and OLDEST_OPSET <= opset_version <= newest):
        raise ValueError(
            f"opset_version={opset_version!r} must be a whole number from {OLDEST_OPSET}, the oldest that torch "
            f"writes, to {newest}, the newest that onnx {onnx.__version__} knows. Give one that the runtime on your "
            "server supports, or leave it out."
        )


def write(
    program: Program, file: Path, notes: dict[str, str], format: ExportFormat, opset_version: Optional[int] = None
) -> None:
    """
    Write a program to a file, and load it once.

    Args:
        program: the program.
        file: path of the new file, in a folder that exists. ONNX puts large weights into a file beside it.
        notes: texts that the file also holds, by name.
        format, opset_version: see `check_format`.

    Raises:
        ValueError: if torch cannot write this `opset_version`.
    """
    with torch.autocast("cpu", enabled=False), without_known_warnings():
        exported = torch.export.export(
            program.module, tuple(program.inputs.values()), dynamic_shapes=program.dynamic_shapes
        )
        if format == "onnx":
            _save_onnx(exported, program, file, notes, opset_version)
        else:
            torch.export.save(exported, file, extra_files=notes)
            torch.export.load(file)


def _save_onnx(
    exported: torch.export.ExportedProgram,
    program: Program,
    file: Path,
    notes: dict[str, str],
    opset_version: Optional[int],
) -> None:
    names = {name: {i: axis.__name__ for i, axis in axes.items()} for name, axes in program.dynamic_shapes.items()}
    onnx_program = torch.onnx.export(
        exported,
        input_names=list(program.inputs),
        output_names=[program.output],
        dynamic_shapes=names,
        opset_version=opset_version,
        dynamo=True,
        verbose=False,
    )
    assert onnx_program is not None, "torch returns None only when it writes the file itself"
    if opset_version is not None:
        written = onnx_program.model.opset_imports[""]
        if written != opset_version:  # torch only logs it, or says nothing
            raise ValueError(
                f"opset_version={opset_version} was asked for, but torch {torch.__version__} does not write this "
                f"model in it: it fell back to version {written}. Give that one, or leave it out."
            )
    onnx_program.model.metadata_props.update(notes)
    onnx_program.save(file, external_data=False)  # torch does not obey if the model is too large for one file
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    else:
        import onnx

        onnx.checker.check_model(file)


def nearest_folder(path: Path) -> Path:
    """The nearest folder above a path that exists: what is written there first leaves no new folder after an error."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def move_into_place(written: Path, file: Path) -> None:
    """Move a written file, and its weights if they are beside it, to `file`, or leave what is there as it is."""
    new = [path for path in (_weights_beside(written), written) if path.exists()]
    old = [path for path in (_weights_beside(file), file) if path.exists()] if file.exists() else []
    in_the_way = [path for path in (file.with_name(path.name) for path in new) if path.exists() and path not in old]
    if in_the_way:
        raise ValueError(
            f"{in_the_way[0]} exists, but no {file.name} that it belongs to. Move it, or export elsewhere."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = Path(tempfile.mkdtemp(dir=written.parent))
    try:
        for path in old:
            os.replace(path, kept / path.name)
        for path in new:
            os.replace(path, file.with_name(path.name))
    except BaseException:
        for path in new:
            if not path.exists():
                file.with_name(path.name).unlink()
        for path in kept.iterdir():
            os.replace(path, file.with_name(path.name))
        raise


def _weights_beside(file: Path) -> Path:
    """The second file of an ONNX file that is too large for one."""
    return file.with_name(f"{file.name}.data")
