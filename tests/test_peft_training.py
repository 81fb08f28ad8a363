"""What PEFT promises of training: which parameters are trainable when, in which precision, and after what."""

import copy
import io
import pickle

import pytest
import torch
from peft import PeftModel, get_peft_model

from peft_mudpt import fold_adapter
from tests.conftest import another_clip, build_clip, checkpoint_layers, config, logits, trainable


def trainable_adapters(model) -> set[str]:
    """The adapters that are trainable, each of them wholly, and nothing else is."""
    adapters = model.prompt_learner.mudpt_adapters
    prefix = "base_model.model.prompt_learner.mudpt_adapters"
    names = {name for name in adapters if next(adapters[name].parameters()).requires_grad}
    assert trainable(model) == {
        f"{prefix}.{name}.{key}" for name in names for key, _ in adapters[name].named_parameters()
    }
    return names


def two_adapters(clip) -> PeftModel:
    model = get_peft_model(clip, config())
    model.add_adapter("other", config(num_virtual_tokens=2))
    return model


@pytest.fixture
def saved(tmp_path):
    get_peft_model(build_clip(), config()).save_pretrained(tmp_path)
    return tmp_path


class TestTrainability:
    def test_an_added_adapter_waits_until_it_is_set(self, clip):
        model = two_adapters(clip)
        assert trainable_adapters(model) == {"default"}
        model.set_adapter("other")
        assert trainable_adapters(model) == {"other"}

    def test_set_for_inference_it_is_not_trainable(self, clip):
        model = two_adapters(clip)
        model.set_adapter("other", inference_mode=True)
        assert model.active_adapters == ["other"] and trainable_adapters(model) == set()

    def test_set_requires_grad_reaches_the_named_adapters_alone(self, clip):
        model = two_adapters(clip)
        model.set_requires_grad("default", requires_grad=False)
        assert trainable_adapters(model) == set()
        model.set_requires_grad(["other", "default"])
        assert trainable_adapters(model) == {"default", "other"}
        model.set_requires_grad(["other"], requires_grad=False)
        assert trainable_adapters(model) == {"default"} and model.active_adapters == ["default"]

    def test_it_is_back_after_disabling(self, clip):
        model = two_adapters(clip)
        with model.disable_adapter():
            assert trainable_adapters(model) == set()
        assert trainable_adapters(model) == {"default"}

    def test_deleting_another_adapter_leaves_it(self, clip):
        model = two_adapters(clip)
        model.delete_adapter("other")
        assert trainable_adapters(model) == {"default"}

    def test_deleting_the_active_adapter_hands_it_on(self, clip):
        model = two_adapters(clip)
        with pytest.warns(UserWarning, match="other"):
            model.delete_adapter("default")
        assert model.active_adapters == ["other"] and trainable_adapters(model) == {"other"}

    def test_a_folded_adapter_stays_untrainable_whatever_is_set(self, clip):
        model = two_adapters(clip)
        fold_adapter(model, "other")
        model.set_adapter("other")
        model.set_requires_grad("other")
        assert trainable(model) == set()

    def test_a_step_changes_the_active_adapter_and_nothing_else(self, clip, inputs):
        model = two_adapters(clip)
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(**inputs).logits_per_image.square().sum().backward()
        optimizer.step()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == trainable(model) and changed


class TestTrainabilityAfterLoading:
    @pytest.mark.parametrize("is_trainable", [False, True])
    def test_it_is_as_was_asked(self, saved, is_trainable):
        model = PeftModel.from_pretrained(build_clip(), saved, is_trainable=is_trainable)
        assert trainable_adapters(model) == ({"default"} if is_trainable else set())
        assert model.peft_config["default"].inference_mode is not is_trainable

    @pytest.mark.parametrize("is_trainable", [False, True])
    def test_loading_beside_an_active_adapter_keeps_it_trainable_and_active(self, clip, saved, inputs, is_trainable):
        model = get_peft_model(clip, config())
        expected = logits(model, inputs)
        model.load_adapter(saved, "loaded", is_trainable=is_trainable)
        assert trainable_adapters(model) == ({"default", "loaded"} if is_trainable else {"default"})
        assert model.active_adapters == ["default"] and torch.equal(logits(model, inputs), expected)

    def test_loading_for_use_beside_one_for_use_trains_nothing(self, saved):
        model = PeftModel.from_pretrained(build_clip(), saved)
        model.load_adapter(saved, "loaded")
        assert trainable_adapters(model) == set()
        model.set_adapter("loaded")
        assert trainable_adapters(model) == {"loaded"}

    def test_loading_over_an_adapter_of_this_name_brings_back_its_numbers(self, saved, inputs):
        expected = logits(PeftModel.from_pretrained(build_clip(), saved), inputs)
        model = PeftModel.from_pretrained(another_clip(), saved, is_trainable=True)
        for parameter in model.prompt_learner.parameters():
            torch.nn.init.ones_(parameter)
        model.load_adapter(saved, "default")
        assert torch.equal(logits(model, inputs), expected) and trainable_adapters(model) == {"default"}

    @pytest.mark.usefixtures("adapters_of_transformers")
    @pytest.mark.parametrize("is_trainable", [False, True])
    def test_inside_transformers_it_is_as_was_asked(self, clip, saved, is_trainable):
        clip.load_adapter(saved, is_trainable=is_trainable)
        ours = {name for name, _ in clip.named_parameters() if "mudpt_" in name}
        assert trainable(clip) == (ours if is_trainable else set())


class TestPrecision:
    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_adapters_on_a_half_precision_base_are_float32_unless_told_otherwise(self, saved, inputs, dtype, autocast):
        options = {"autocast_adapter_dtype": autocast}
        model = get_peft_model(build_clip().to(dtype), config(), **options)
        model.add_adapter("added", config(), **options)
        model.load_adapter(saved, "loaded", **options)
        adapters = [*model.prompt_learner.parameters()]
        adapters += PeftModel.from_pretrained(build_clip().to(dtype), saved, **options).prompt_learner.parameters()
        assert {parameter.dtype for parameter in adapters} == {torch.float32 if autocast else dtype}
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        output = model(**inputs).logits_per_image
        assert output.dtype == dtype and output.isfinite().all()
        output.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)

    @pytest.mark.parametrize("autocast", [False, True])
    def test_folded_adapters_are_so_too(self, inputs, tmp_path, autocast):
        model = get_peft_model(build_clip(), config())
        fold_adapter(model)
        model.save_pretrained(tmp_path)
        half = build_clip().to(torch.bfloat16)
        loaded = PeftModel.from_pretrained(half, tmp_path, autocast_adapter_dtype=autocast)
        expected = model.prompt_learner.state_dict()
        for name, prompts in loaded.prompt_learner.state_dict().items():
            assert torch.equal(prompts, expected[name] if autocast else expected[name].to(torch.bfloat16))

    def test_a_whole_model_in_half_precision_computes_in_it(self, clip, inputs):
        model = get_peft_model(clip, config()).to(torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        assert logits(model, inputs).dtype == torch.bfloat16


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_torch_save],
    ids=["deepcopy", "pickle", "torch.save"],
)  # fmt: skip
def test_a_copy_of_a_disabled_model_with_two_adapters_switches_as_the_original(clip, inputs, copied):
    base = logits(clip, inputs)
    model = two_adapters(clip)
    expected = {"default": logits(model, inputs)}
    model.set_adapter("other")
    expected["other"] = logits(model, inputs)
    model.base_model.disable_adapter_layers()
    twin = copied(model)
    assert torch.equal(logits(twin, inputs), base)
    twin.base_model.enable_adapter_layers()
    assert twin.active_adapters == ["other"]
    for name in ("other", "default"):
        twin.set_adapter(name)
        assert torch.equal(logits(twin, inputs), expected[name])
    assert torch.equal(logits(model, inputs), base)  # the original is still disabled


@pytest.mark.slow
@torch.no_grad()
def test_an_adapter_added_after_compiling_is_followed(clip, inputs):
    model, tokens = get_peft_model(clip, config()).eval(), inputs["input_ids"]
    expected = {"default": model.text_model(tokens).pooler_output}
    torch.compiler.reset()
    compiled = torch.compile(model.text_model, fullgraph=True, backend="eager")
    compiled(tokens)
    model.add_adapter("other", config(num_virtual_tokens=2, prompt_depth=2))
    model.set_adapter("other")
    expected["other"] = model.text_model(tokens).pooler_output
    for name in ("other", "default"):
        model.set_adapter(name)
        torch.testing.assert_close(compiled(tokens).pooler_output, expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("when", ["before wrapping", "after wrapping"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_with_inputs_that_require_gradients_gives_the_gradients_of_a_plain_pass(
    inputs, when, use_reentrant
):
    def gradients(*, checkpointed: bool):
        clip = build_clip()
        if checkpointed and when == "before wrapping":
            checkpoint_layers(clip, use_reentrant)
        model = get_peft_model(clip, config()).train()
        if checkpointed and when == "after wrapping":
            checkpoint_layers(model, use_reentrant)
        if checkpointed:
            model.enable_input_require_grads()
            assert all(layer.gradient_checkpointing for layer in clip.text_model.encoder.layers)
        model(**inputs).logits_per_image.square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    expected, ours = gradients(checkpointed=False), gradients(checkpointed=True)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():  # 1e-5: float32 sums in another order, of values up to 1e2
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-5)
