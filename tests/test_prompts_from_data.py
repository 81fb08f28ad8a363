"""Vision prompts that start from tokens of pictures."""

from collections import UserDict

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPVisionModel, ViTConfig, ViTForImageClassification

from peft_mudpt import MuDPTConfig, fold_adapter, initialize_prompts
from tests.conftest import build_clip, build_inputs, config, enlivened, hooks_on, logits
from tests.towers.test_families import FAMILIES as DUAL_ENCODERS
from tests.towers.test_families import VISION


METHODS = ["random", "mean_pool", "max_pool", "kmeans"]
N = 3  # prompts


def pictures(number=10, seed=0):
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def vision_only(**fields):
    return config(**{"num_virtual_tokens": N, "text_prompt_depth": 0, "fusion_direction": "none", **fields})


def adapter(model, name="default"):
    return model.prompt_learner.mudpt_adapters[name]


def vit():
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**VISION, num_labels=3))
    return enlivened(model)


FAMILIES = {**DUAL_ENCODERS, "vit": vit}


@torch.no_grad()
def pool_of(model, images):
    """For each layer, the tokens (B * L, d) of plain CLIP, from its own outputs: hidden state 0 is the input."""
    tower = getattr(model, "vision_model", None) or model.vit
    embeddings = tower.embeddings
    patches = (getattr(embeddings, "patch_embedding", None) or embeddings.patch_embeddings)(images)
    if patches.dim() == 4:
        patches = patches.flatten(2).transpose(1, 2)
    states = tower(images, output_hidden_states=True).hidden_states[1:-1]
    first = states[0].shape[1] - patches.shape[1]  # behind CLS and registers
    return [tokens.flatten(0, 1) for tokens in (patches, *(state[:, first:] for state in states))]


def assert_rows_of(prompts, pool):
    for own, tokens in zip(prompts, pool, strict=True):
        assert (torch.cdist(own, tokens, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) < 1e-5).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_random_prompts_are_tokens_of_each_layer_of_the_plain_model(family):
    model = FAMILIES[family]()
    pool = pool_of(model, pictures())
    adapted = get_peft_model(model, vision_only(vision_prompt_depth="all"))
    initialize_prompts(adapted, [pictures()])
    prompts = adapter(adapted).vision_prompts
    assert_rows_of(prompts, pool)
    assert all(len(row.unique(dim=0)) == N for row in prompts)


def test_a_vision_tower_alone_starts_from_pictures_too():
    tower = CLIPVisionModel(build_clip().config.vision_config).eval()
    model = get_peft_model(tower, vision_only())
    initialize_prompts(model, [pictures()])
    assert model.peft_config["default"].prompt_initialization["num_images"] == 10


@pytest.mark.parametrize("method", METHODS)
def test_the_choice_depends_on_the_seed_but_not_on_the_batches(method):
    def prompts(batch_size, seed):
        model = get_peft_model(build_clip(), vision_only())
        initialize_prompts(model, pictures(70).split(batch_size), method, seed=seed)
        return adapter(model).vision_prompts.detach()

    first = prompts(70, seed=1)
    assert torch.equal(prompts(4, seed=1), first) and torch.equal(prompts(33, seed=1), first)
    assert not torch.equal(prompts(70, seed=2), first)


def test_a_generator_gives_what_its_seed_gives_and_is_recorded_as_unknown():
    models = [get_peft_model(build_clip(), vision_only()) for _ in range(2)]
    initialize_prompts(models[0], [pictures()], seed=5)
    initialize_prompts(models[1], [pictures()], generator=torch.Generator().manual_seed(5))
    assert torch.equal(*(adapter(model).vision_prompts for model in models))
    assert models[1].peft_config["default"].prompt_initialization["seed"] is None


def test_the_number_of_pictures_is_limited():
    models = [get_peft_model(build_clip(), vision_only()) for _ in range(2)]
    initialize_prompts(models[0], [pictures()[:4]])
    unreadable = torch.full((2, 3, 16, 16), torch.nan)
    initialize_prompts(models[1], [pictures()[:3], pictures()[3:], unreadable], num_images=4)
    assert torch.equal(*(adapter(model).vision_prompts for model in models))


def test_batches_may_be_dicts():
    models = [get_peft_model(build_clip(), vision_only()) for _ in range(2)]
    initialize_prompts(models[0], [pictures()])
    initialize_prompts(
        models[1], [UserDict(pixel_values=pictures()[:5], labels=[1]), {"pixel_values": pictures()[5:]}]
    )
    assert torch.equal(*(adapter(model).vision_prompts for model in models))


@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("direction", ["text_to_vision", "bidirectional"])
def test_the_prompts_after_the_fusion_equal_the_tokens(direction, first_layer):
    model = build_clip()
    pool = pool_of(model, pictures())
    fields = {"fusion_direction": direction, "vision_prompt_depth": 3 - first_layer, "text_prompt_depth": 2}
    adapted = get_peft_model(model, config(num_virtual_tokens=N, first_layer=first_layer, **fields))
    initialize_prompts(adapted, [pictures()])
    layers = range(first_layer, 3)
    effective = adapter(adapted).effective("vision", layers)
    assert_rows_of(effective, pool[first_layer:3])
    assert (adapter(adapted).vision_prompts - effective)[0].abs().max() > 0.1  # raw ones differ where text shifts them


def test_text_prompts_stay_as_they_are_and_nothing_else_changes():
    model = get_peft_model(build_clip(), config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialize_prompts(model, [pictures()])
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert [name.rsplit(".", 1)[-1] for name in changed] == ["vision_prompts"]


class TestTheModel:
    """Its state is as before, also after an error."""

    @pytest.mark.parametrize("fails", [False, True])
    def test_modes_gradients_hooks_and_activity_are_as_before(self, fails):
        model = get_peft_model(build_clip(), config()).train()
        model.vision_model.encoder.layers[1].eval()
        adapter(model).text_prompts.requires_grad = False
        state = [[m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], hooks_on(model)]
        batches = [pictures(), pictures() * torch.nan if fails else pictures()]
        try:
            initialize_prompts(model, batches)
        except ValueError:
            assert fails
        after = [[m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], hooks_on(model)]
        assert after == state
        assert not model.prompt_learner.disable_adapters

    def test_a_disabled_adapter_stays_disabled(self):
        model = get_peft_model(build_clip(), config())
        expected = logits(build_clip(), build_inputs())
        with model.disable_adapter():
            initialize_prompts(model, [pictures()])
            assert torch.equal(logits(model, build_inputs()), expected)

    def test_an_adapter_that_is_not_active_can_be_named(self):
        model = get_peft_model(build_clip(), vision_only())
        model.add_adapter("other", vision_only(num_virtual_tokens=2))
        active = adapter(model).vision_prompts.clone()
        initialize_prompts(model, [pictures()], adapter_name="other")
        assert model.active_adapter == "default" and torch.equal(adapter(model).vision_prompts, active)
        assert model.peft_config["default"].prompt_initialization is None
        assert_rows_of(adapter(model, "other").vision_prompts, pool_of(build_clip(), pictures()))


class TestTheNote:
    """The config says how the prompts began."""

    NOTE = {"method": "kmeans", "seed": 7, "num_images": 10}

    def test_it_is_saved_loaded_and_kept_by_folding(self, tmp_path):
        model = get_peft_model(build_clip(), config())
        initialize_prompts(model, [pictures()], "kmeans", seed=7)
        expected = logits(model, build_inputs())
        model.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(build_clip(), tmp_path)
        assert torch.equal(logits(reloaded, build_inputs()), expected)
        assert reloaded.peft_config["default"].prompt_initialization == self.NOTE
        fold_adapter(reloaded)
        assert reloaded.peft_config["default"].prompt_initialization == self.NOTE

    @pytest.mark.parametrize("change", [{"method": "pca"}, {"seed": -1}, {"num_images": 0}, {"more": 1}])
    def test_a_wrong_note_is_refused(self, change):
        with pytest.raises(ValueError, match="prompt_initialization="):
            MuDPTConfig(prompt_initialization={**self.NOTE, **change})


def refuses(model, batches, message, **arguments):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not tensor.is_meta}
    with pytest.raises(ValueError, match=message):
        initialize_prompts(model, batches, **arguments)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if name in before)
    for each in getattr(model, "peft_config", {}).values():
        assert getattr(each, "prompt_initialization", None) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_prompt_depth": 0, "text_prompt_depth": 1}, "vision_prompt_depth"),
        ({"text_prompt_depth": 3, "fusion_direction": "text_to_vision", "fusion_combine": "replace"}, "'replace'"),
    ],
)
def test_an_adapter_without_vision_prompts_of_its_own_is_refused(fields, message):
    refuses(get_peft_model(build_clip(), vision_only(**fields)), [pictures()], message)


def test_a_folded_adapter_is_refused():
    model = get_peft_model(build_clip(), config())
    fold_adapter(model)
    refuses(model, [pictures()], "folded")


def test_models_without_such_an_adapter_are_refused():
    refuses(build_clip(), [pictures()], "no active MuDPT adapter")
    refuses(
        get_peft_model(build_clip(), LoraConfig(target_modules=["q_proj"])), [pictures()], "no active MuDPT adapter"
    )
    refuses(get_peft_model(build_clip(), config()), [pictures()], "'other'.*'default'", adapter_name="other")


def test_an_adapter_on_a_text_tower_alone_is_refused():
    fields = {"vision_hidden_size": 48, "vision_prompt_depth": 3}
    model = get_peft_model(build_clip().text_model, config(**fields))
    refuses(model, [pictures()], "no vision tower")


def test_a_model_without_numbers_is_refused():
    with torch.device("meta"):
        clip = build_clip()
    refuses(get_peft_model(clip, config()), [pictures()], "meta")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no pictures"),
        (pictures(), "dataloader="),
        ({"pixel_values": pictures()}, "dataloader="),
        (3, "dataloader=3"),
        ([(pictures(), torch.zeros(10))], "Batch 0"),
        ([{"images": pictures()}], "Batch 0.*'pixel_values'"),
        ([pictures(), pictures().long()], "Batch 1"),
        ([pictures()[0]], r"Batch 0.*\(3, 16, 16\).*\(B, 3, 16, 16\)"),
        ([pictures()[:, :, :8]], r"Batch 0.*\(10, 3, 8, 16\)"),
        ([pictures(), pictures() / 0], "Batch 1.*NaN or infinite"),
    ],
)
def test_wrong_batches_are_refused_by_position(batches, message):
    refuses(get_peft_model(build_clip(), config()), batches, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "mean_pooling"}, "method='mean_pooling'.*mean_pool"),
        ({"num_images": 0}, "num_images=0"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    refuses(get_peft_model(build_clip(), config()), [pictures()], message, **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_more_prompts_than_tokens_are_refused(method):
    model = get_peft_model(build_clip(), vision_only(num_virtual_tokens=9))
    refuses(model, [pictures(2)], "9 (vision )?prompts", method=method)


def test_activations_that_are_not_finite_are_refused():
    clip = build_clip()
    clip.vision_model.encoder.layers[0].mlp.fc2.bias.data.fill_(torch.inf)
    refuses(get_peft_model(clip, vision_only()), [pictures()], "NaN or infinite")
