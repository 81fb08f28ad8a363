"""The formats in which programs are written."""

from types import SimpleNamespace

import onnx
import pytest
import torch

from peft_mudpt.serving.formats import check_format, write
from peft_mudpt.serving.programs import BATCH, Program


PROGRAM = Program(torch.nn.Linear(3, 2), {"input": torch.zeros(2, 3)}, "output", {"input": {0: BATCH}})


@pytest.mark.parametrize("version", [18, 21])
def test_an_onnx_file_has_the_operators_of_the_version_that_was_asked_for(version, tmp_path):
    write(PROGRAM, tmp_path / "linear.onnx", {}, "onnx", version)
    assert [(opset.domain, opset.version) for opset in onnx.load(tmp_path / "linear.onnx").opset_import] == [
        ("", version)
    ]


@pytest.mark.parametrize("version", [17, 1000, "18", 18.0])
def test_a_version_that_cannot_be_written_is_refused_with_the_range(version):
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(ValueError, match=f"opset_version={version!r} must be .* from 18, .* to {newest}"):
        check_format("onnx", version)


def test_a_version_of_operators_is_refused_for_a_format_without_them():
    with pytest.raises(ValueError, match="opset_version=18 is of ONNX's operators, but format='torch_export'"):
        check_format("torch_export", 18)


def test_a_version_that_torch_does_not_keep_is_an_error_and_not_another_file(tmp_path, monkeypatch):
    kept = SimpleNamespace(model=SimpleNamespace(opset_imports={"": 18}))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: kept)
    with pytest.raises(ValueError, match="opset_version=19 was asked for, but torch .* back to version 18"):
        write(PROGRAM, tmp_path / "linear.onnx", {}, "onnx", 19)
    assert list(tmp_path.iterdir()) == []
