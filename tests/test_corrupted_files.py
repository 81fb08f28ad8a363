"""Adapters whose files were cut off or edited: they never load as something else than what was saved."""

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import CLIPTextModelWithProjection

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import build_inputs, hooks_on
from tests.test_properties import ANYTHING, MEANT, fresh_clip


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KINDS = ("mudpt", "maple", "ivlp", "folded", "with_a_module")
CLEAR = (ValueError, OSError, SafetensorError)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(**build_inputs()).logits_per_image


@cache
def saved(kind: str) -> tuple[dict[str, bytes], torch.Tensor]:
    """The files of an adapter, and the logits that go with them."""
    torch.manual_seed(1)
    preset = kind if kind in ("maple", "ivlp") else "mudpt"
    fields = {"modules_to_save": ["visual_projection"]} if kind == "with_a_module" else {}
    model = get_peft_model(fresh_clip(), MuDPTConfig.from_preset(preset, init_std=0.5, class_names=["a"], **fields))
    if kind == "folded":
        fold_adapter(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {name: (Path(folder) / name).read_bytes() for name in (WEIGHTS, CONFIG)}, logits(model)


def tensors_of(kind: str) -> dict[str, torch.Tensor]:
    return load(saved(kind)[0][WEIGHTS])


def load_files(files: dict[str, bytes], clip=None, **options) -> PeftModel:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return PeftModel.from_pretrained(fresh_clip() if clip is None else clip, folder, **options)


def load_tensors(kind: str, tensors: dict[str, torch.Tensor], **options) -> PeftModel:
    return load_files({**saved(kind)[0], WEIGHTS: save(tensors, metadata={"format": "pt"})}, **options)


def assert_refused_or_the_same(kind: str, files: dict[str, bytes], errors: tuple = ()) -> None:
    if (
        kind == "with_a_module"
    ):  # of one in modules_to_save that is missing PEFT speaks first, by a KeyError of its name
        errors = (*errors, KeyError)
    try:
        model = load_files(files)
    except (*CLEAR, *errors):
        return
    assert torch.equal(logits(model), saved(kind)[1])


def in_place(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


KIND = st.sampled_from(KINDS)
LOADING = st.sampled_from([{}, {"ignore_mismatched_sizes": True}, {"low_cpu_mem_usage": True}])


class TestBytesOfTheWeights:
    @given(KIND, st.data())
    def test_a_file_that_breaks_off_anywhere_is_refused(self, kind, data):
        files, _ = saved(kind)
        place = data.draw(st.integers(0, len(files[WEIGHTS]) - 1))
        with pytest.raises(CLEAR):
            load_files({**files, WEIGHTS: files[WEIGHTS][:place]})

    @given(KIND, st.data())
    def test_an_edited_header_is_refused_or_changes_nothing(self, kind, data):
        files, _ = saved(kind)
        end = 8 + int.from_bytes(files[WEIGHTS][:8], "little")
        edited = in_place(
            files[WEIGHTS], data.draw(st.integers(8, end - 1)), data.draw(st.binary(min_size=1, max_size=1))
        )
        assert_refused_or_the_same(kind, {**files, WEIGHTS: edited})

    @given(KIND, st.integers(0, 2**64 - 1) | st.integers(0, 10_000))
    def test_a_header_of_another_length_is_refused(self, kind, length):
        files, _ = saved(kind)
        assume(files[WEIGHTS][:8] != length.to_bytes(8, "little"))
        with pytest.raises(CLEAR):
            load_files({**files, WEIGHTS: in_place(files[WEIGHTS], 0, length.to_bytes(8, "little"))})

    @given(KIND, st.binary(max_size=200))
    def test_a_file_of_anything_is_refused(self, kind, content):
        with pytest.raises(CLEAR):
            load_files({**saved(kind)[0], WEIGHTS: content})


@st.composite
def a_tensor(draw):
    """A kind of adapter, and the name of one of its tensors."""
    kind = draw(KIND)
    return kind, draw(st.sampled_from(sorted(tensors_of(kind))))


def ours(name: str) -> bool:
    return "mudpt_" in name


class TestTensors:
    @given(a_tensor())
    def test_one_that_is_missing_is_named(self, chosen):
        (kind, name), tensors = chosen, tensors_of(chosen[0])
        del tensors[name]
        # of a module in modules_to_save PEFT speaks first, by a KeyError of its name
        with pytest.raises((ValueError, KeyError), match=name.rpartition("mudpt_adapters.")[2]):
            load_tensors(kind, tensors)

    @given(a_tensor(), st.text("abcxyz._0", min_size=1, max_size=5), st.booleans())
    def test_one_under_another_name_is_named(self, chosen, addition, at_the_end):
        (kind, name), tensors = chosen, tensors_of(chosen[0])
        new = name + addition if at_the_end else addition + name
        tensors[new] = tensors.pop(name)
        with pytest.raises((ValueError, KeyError)):
            load_tensors(kind, tensors)

    @given(a_tensor(), st.sampled_from(["base_model.model.", ""]), st.integers(0, 10**6))
    def test_weights_of_the_base_model_are_not_written_over(self, chosen, prefix, place):
        kind, tensors = chosen[0], tensors_of(chosen[0])
        state = fresh_clip().state_dict()
        name = sorted(state)[place % len(state)]
        assume(not (kind == "with_a_module" and name == "visual_projection.weight"))
        tensors[prefix + name] = torch.ones_like(state[name])
        with pytest.raises(ValueError, match=f"{name} is no part of it"):
            load_tensors(kind, tensors)

    @given(a_tensor(), st.lists(st.integers(0, 9), max_size=4), LOADING)
    def test_one_of_another_shape_is_named_with_both(self, chosen, shape, options):
        (kind, name), tensors = chosen, tensors_of(chosen[0])
        before = tuple(tensors[name].shape)
        assume("mudpt_" in name and tuple(shape) != before)  # PEFT looks at the shapes of modules_to_save
        tensors[name] = torch.ones(shape)
        with pytest.raises(ValueError) as refusal:
            load_tensors(kind, tensors, **options)
        assert f"the shape {tuple(shape)}, expected {before}" in str(refusal.value)

    @given(a_tensor())
    def test_one_that_was_flattened_is_named(self, chosen):
        (kind, name), tensors = chosen, tensors_of(chosen[0])
        assume("mudpt_" in name and tensors[name].dim() > 1)
        tensors[name] = tensors[name].flatten()
        with pytest.raises(ValueError, match="the shape"):
            load_tensors(kind, tensors)

    @given(a_tensor(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.integers(0, 10**6), LOADING)
    def test_one_that_holds_a_number_that_is_none_is_named(self, chosen, number, place, options):
        (kind, name), tensors = chosen, tensors_of(chosen[0])
        flat = tensors[name].flatten()
        flat[place % len(flat)] = number
        tensors[name] = flat.view_as(tensors[name])
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            load_tensors(kind, tensors, **options)

    @given(a_tensor(), st.sampled_from([torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64]), LOADING)
    def test_one_without_floating_point_is_named(self, chosen, dtype, options):
        (kind, name), tensors = chosen, tensors_of(chosen[0])
        tensors[name] = tensors[name].to(dtype)
        with pytest.raises(ValueError, match=f"holds {dtype}"):
            load_tensors(kind, tensors, **options)

    @given(KIND, st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
    def test_another_precision_is_converted(self, kind, dtype):
        tensors = {name: tensor.to(dtype) for name, tensor in tensors_of(kind).items()}
        expected = load_tensors(kind, {name: tensor.float() for name, tensor in tensors.items()})
        assert torch.equal(logits(load_tensors(kind, tensors)), logits(expected))

    def test_numbers_that_overflow_in_the_models_precision_are_named(self):
        tensors = {name: tensor.double() for name, tensor in tensors_of("ivlp").items()}
        next(iter(tensors.values()))[0, 0, 0] = 1e300
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            load_tensors("ivlp", tensors)

    @given(KIND, KIND)
    def test_those_of_an_adapter_of_another_kind_are_refused(self, kind, other):
        assume(kind != other)
        with pytest.raises((ValueError, KeyError)):
            load_files({CONFIG: saved(kind)[0][CONFIG], WEIGHTS: saved(other)[0][WEIGHTS]})


class TestTheConfig:
    @given(KIND, st.data())
    def test_an_edited_field_is_refused_or_changes_no_number(self, kind, data):
        files, _ = saved(kind)
        content = json.loads(files[CONFIG])
        name = data.draw(st.sampled_from(sorted(content)))
        content[name] = data.draw(
            MEANT.get(name, ANYTHING) | ANYTHING.filter(lambda value: not isinstance(value, bytes))
        )
        try:
            edited = json.dumps(content).encode()
        except TypeError:  # bytes within
            assume(False)
        # by its type PEFT chooses whom to ask, and a module that is not in the file it misses by a KeyError
        errors = {"peft_type": (KeyError, TypeError), "modules_to_save": (KeyError,)}.get(name, ())
        assert_refused_or_the_same(kind, {**files, CONFIG: edited}, errors)

    @given(KIND, st.data())
    @pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")  # PEFT's word for a field it does not know
    def test_a_renamed_field_is_refused_or_changes_no_number(self, kind, data):
        files, _ = saved(kind)
        content = json.loads(files[CONFIG])
        name = data.draw(st.sampled_from(sorted(content.keys() - {"peft_type"})))
        content[f"{name}_"] = content.pop(name)
        assert_refused_or_the_same(kind, {**files, CONFIG: json.dumps(content).encode()})

    @given(KIND, st.data())
    def test_a_file_that_breaks_off_anywhere_is_refused(self, kind, data):
        files, _ = saved(kind)
        place = data.draw(st.integers(0, len(files[CONFIG].rstrip()) - 1))
        with pytest.raises(ValueError):
            load_files({**files, CONFIG: files[CONFIG][:place]})

    @given(KIND, st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
    def test_a_file_of_anything_else_is_never_loaded(self, kind, content):
        with pytest.raises((*CLEAR, KeyError, TypeError)):  # PEFT looks for the type of the adapter first
            load_files({**saved(kind)[0], CONFIG: json.dumps(content).encode()})


def damaged(kind: str) -> dict[str, torch.Tensor]:
    tensors = tensors_of(kind)
    return {name: tensor * float("nan") if ours(name) else tensor for name, tensor in tensors.items()}


class TestAfterARefusal:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_clip_computes_what_it_did(self, kind):
        clip = fresh_clip()
        expected = logits(clip)
        with pytest.raises(ValueError, match="NaN"):
            load_tensors(kind, damaged(kind), clip=clip)
        assert torch.equal(logits(clip), expected)
        assert hooks_on(clip) == 0

    @pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")  # PEFT notes that there was an adapter before
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_clip_takes_the_right_file(self, kind):
        clip = fresh_clip()
        with pytest.raises(ValueError, match="NaN"):
            load_tensors(kind, damaged(kind), clip=clip)
        assert torch.equal(logits(load_files(saved(kind)[0], clip=clip)), saved(kind)[1])

    def test_a_second_adapter_is_gone_and_the_first_unchanged(self, tmp_path):
        model = load_files(saved("mudpt")[0])
        (tmp_path / CONFIG).write_bytes(saved("maple")[0][CONFIG])
        (tmp_path / WEIGHTS).write_bytes(save(damaged("maple")))
        with pytest.raises(ValueError, match="NaN"):
            model.load_adapter(tmp_path, adapter_name="second")
        assert list(model.peft_config) == list(model.prompt_learner.mudpt_adapters) == ["default"]
        assert torch.equal(logits(model), saved("mudpt")[1])

    @pytest.mark.parametrize("options", [{}, {"is_trainable": True}])
    def test_an_adapter_that_was_there_before_stays_as_it_was(self, options):
        model = load_files(saved("mudpt")[0], **options)
        with pytest.raises(ValueError, match="NaN"):
            set_peft_model_state_dict(model, damaged("mudpt"))
        assert torch.equal(logits(model), saved("mudpt")[1])


def test_a_tower_alone_takes_of_the_modules_those_that_it_has(tmp_path):
    model = get_peft_model(fresh_clip(), MuDPTConfig(init_std=0.5, modules_to_save=["layer_norm1"])).eval()
    model.save_pretrained(tmp_path)
    clip = fresh_clip()
    text = CLIPTextModelWithProjection(clip.config.text_config)
    text.config.projection_dim = clip.config.projection_dim
    text.text_model, text.text_projection = clip.text_model, clip.text_projection
    text = PeftModel.from_pretrained(text, tmp_path).eval()
    ids = build_inputs()["input_ids"]
    with torch.no_grad():
        assert torch.equal(text(ids).text_embeds, model.get_text_features(ids).pooler_output)


@pytest.mark.usefixtures("adapters_of_transformers")
@given(a_tensor(), st.sampled_from(["missing", "renamed", "misshaped"]))
def test_transformers_own_loader_reports_what_it_could_not_load(chosen, damage):
    (kind, name), tensors = chosen, tensors_of(chosen[0])
    tensor = tensors.pop(name)
    if damage != "missing":
        tensors[f"{name}x" if damage == "renamed" else name] = (
            tensor if damage == "renamed" else torch.ones(2, 3, 5, 7)
        )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_bytes(saved(kind)[0][CONFIG])
        (Path(folder) / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        try:
            report = fresh_clip().load_adapter(folder)
        except (ValueError, RuntimeError):
            return
        assert report.missing_keys
