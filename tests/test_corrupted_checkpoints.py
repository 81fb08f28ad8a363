"""Checkpoints of unknown origin: nothing in them is executed, and what cannot be read is refused in words."""

import importlib.util
import io
import os
import pickle
import random
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peft_mudpt import convert_checkpoint
from tests.conversion.published_files import recorded
from tests.test_corrupted_files import in_place
from tests.test_golden import IMPLEMENTATIONS


def conversion_script():
    """examples/convert_checkpoint.py, which is no module of the package."""
    spec = importlib.util.spec_from_file_location(
        "script", Path(__file__).parents[1] / "examples/convert_checkpoint.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


SCRIPT = conversion_script()


class Call:
    """What a pickle would call when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(canary: Path) -> list[Call]:
    touch = f"open({str(canary)!r}, 'w')"
    return [
        Call(os.system, f"touch {canary}"),
        Call(eval, touch),
        Call(exec, touch),
        Call(subprocess.call, ["touch", str(canary)]),
        Call(Path.touch, canary),
        Call(io.open, str(canary), "w"),
        Call(pickle.loads, pickle.dumps(Call(eval, touch))),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(torch.load, str(canary)),
        Call(map, Call(eval, f"lambda _: {touch}"), [1]),
    ]


KINDS_OF_NO_WEIGHTS = ("nan", "inf", "int", "complex", "sparse", "meta")


@st.composite
def places(draw):
    """Somewhere in a checkpoint of CoOp."""
    inner = st.sampled_from(
        [lambda x: x, lambda x: [x], lambda x: {"a": x}, lambda x: (x, x), lambda x: {"state_dict": x}]
    )
    wrap, name = draw(inner), draw(st.sampled_from(["state_dict", "optimizer", "prompt_learner.ctx", "epoch"]))
    return lambda attack: {"state_dict": {**recorded("coop"), "x": wrap(attack)}, name: wrap(attack)}


def read_checkpoint(content: bytes):
    """What the script reads of it; None if it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.pth"
        file.write_bytes(content)
        try:
            return SCRIPT.load_weights(str(file))
        except ValueError:
            return None


def as_file(checkpoint, archive: bool) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


class TestCheckpoints:
    @given(st.integers(0, 9), places(), st.sampled_from(["archive", "legacy", "pickle"]))
    def test_nothing_in_them_is_executed(self, number, place, form):
        with tempfile.TemporaryDirectory() as folder:
            canary = Path(folder) / "canary"
            checkpoint = place(attacks(canary)[number])
            content = pickle.dumps(checkpoint, 2) if form == "pickle" else as_file(checkpoint, form == "archive")
            read = read_checkpoint(content)
            assert not canary.exists()
        assert read is None or all(type(value) is torch.Tensor for value in read.values())

    @given(st.booleans(), st.integers(0, 10**6))
    def test_a_file_that_breaks_off_is_refused_in_words(self, archive, place):
        content = as_file({"state_dict": recorded("coop")}, archive)
        assert read_checkpoint(content[: place % len(content)]) is None

    @given(st.booleans(), st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
    def test_an_edited_file_is_refused_in_words_or_holds_tensors(self, archive, place, new):
        content = as_file({"state_dict": recorded("coop")}, archive)
        read = read_checkpoint(in_place(content, place % len(content), new))
        assert read is None or all(type(value) is torch.Tensor for value in read.values())

    @given(st.binary(max_size=100), st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04"]))
    def test_a_file_of_anything_is_refused_in_words(self, content, magic):
        assert read_checkpoint(magic + content) in (None, {})  # some few bytes are a pickle of nothing

    @given(
        st.sampled_from(IMPLEMENTATIONS),
        st.sampled_from(["nan", "inf", "int", "complex", "sparse", "meta"]),
        st.randoms(),
    )
    def test_tensors_that_are_no_weights_are_named(self, method, kind, random_: random.Random):
        weights = recorded(method)
        name = random_.choice(sorted(weights))
        weights[name] = {
            "nan": lambda t: t * float("nan"),
            "inf": lambda t: t + float("inf"),
            "int": lambda t: t.long(),
            "complex": lambda t: t.to(torch.complex64),
            "sparse": lambda t: t.to_sparse(),
            "meta": lambda t: t.to("meta"),
        }[kind](weights[name])
        with pytest.raises(ValueError, match=name):
            convert_checkpoint(weights, method)

    @given(st.sampled_from(IMPLEMENTATIONS), st.text("abc.x_1", min_size=1, max_size=4), st.randoms())
    def test_another_name_is_listed(self, method, addition, random_: random.Random):
        weights = recorded(method)
        name = random_.choice(sorted(weights))
        weights[name + addition] = weights.pop(name)
        with pytest.raises(ValueError, match="missing|go together|named tensors"):
            convert_checkpoint(weights, method)
