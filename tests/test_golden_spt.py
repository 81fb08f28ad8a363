"""The published start of vision prompts from tokens of pictures (SPT; tests/golden/README.md)."""

import json

import pytest
import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from peft_mudpt import MuDPTConfig, initialize_prompts
from peft_mudpt.prompts.prototypes import POOLS, windows
from peft_mudpt.towers.registry import find_towers
from tests.test_golden import GOLDEN, assert_near, backbone, read


__all__ = ["backbone"]  # a fixture

LAYERS, LENGTH = 4, 16  # of both models
PUBLISHED = [("spt", 4), ("spt", 6), ("spt_vit", 4)]  # of the others, the last window is empty


def vision_prompts(n, depth="all"):
    return MuDPTConfig(num_virtual_tokens=n, vision_prompt_depth=depth, text_prompt_depth=0, fusion_direction="none")


@pytest.fixture(scope="module")
def vit():
    tensors, metadata = read(GOLDEN / "spt_vit.safetensors")
    model = ViTModel(ViTConfig(**json.loads(metadata["config"])), add_pooling_layer=False).eval()
    weights = {key.removeprefix("model/"): value.float() for key, value in tensors.items() if key.startswith("model/")}
    model.load_state_dict(weights)
    return model


@pytest.fixture
def recorded(request):
    """The recorded numbers of a case, its model, and the pictures in the order in which they were drawn."""

    def of(name):
        tensors, _ = read(GOLDEN / f"{name}.safetensors")
        model = request.getfixturevalue({"spt": "backbone", "spt_vit": "vit"}[name])
        return tensors, model, tensors["images"][tensors["sample_idx"]]

    return of


def started(model, pictures, n, method, depth="all"):
    """The vision prompts (layers, n, d) that start from these pictures."""
    adapted = get_peft_model(model, vision_prompts(n, depth))
    initialize_prompts(adapted, pictures.split(2), method, seed=1)
    prompts = model.prompt_learner.mudpt_adapters["default"].vision_prompts.detach().clone()
    adapted.unload()
    return prompts


def assert_rows_of(prompts, candidates):
    """Each prompt is one of the candidates (layers, m, d) of its layer."""
    distances = (prompts[:, :, None] - candidates[:, None]).abs().amax(dim=-1)  # (layers, n, m)
    assert distances.amin(dim=-1).max() < 5e-5


def test_the_vit_is_loaded_as_it_was_recorded(vit):
    tensors, _ = read(GOLDEN / "spt_vit.safetensors")
    with torch.no_grad():
        assert_near(vit(tensors["images"]).last_hidden_state[:, 0], tensors["check/features"], 5e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["spt", "spt_vit"])
def test_the_tokens_of_each_layer_equal_the_published_pool(name, recorded):
    tensors, model, pictures = recorded(name)
    tower, pool = find_towers(model)["vision"], [None] * LAYERS
    hooks = tower.kind.watch_patches(tower.module, range(LAYERS), pool.__setitem__)
    tower.module(pictures)
    for hook in hooks:
        hook.remove()
    assert_near(torch.stack(pool), tensors["pool"], 5e-5)


@pytest.mark.parametrize("name", ["spt", "spt_vit"])
def test_the_published_prompts_are_rows_of_our_pool(name, recorded):
    tensors, _, _ = recorded(name)
    pool = tensors["pool"].flatten(1, 2)  # (layers, B * L, d)
    for key in (key.removesuffix("/index") for key in tensors if key.startswith("random") and key.endswith("index")):
        rows = pool.take_along_dim(tensors[f"{key}/index"][..., None], dim=1)
        assert torch.equal(rows, tensors[f"{key}/prompts"])


@pytest.mark.parametrize("method", ["mean_pool", "max_pool"])
@pytest.mark.parametrize(("name", "n"), PUBLISHED)
def test_pooled_candidates_equal_the_published_ones(name, n, method, recorded):
    tensors, _, _ = recorded(name)
    golden = tensors[f"{method}ing_n{n}/candidates"]  # (layers, n, B, d)
    for pool, expected in zip(tensors["pool"], golden, strict=True):
        assert_near(torch.stack([POOLS[method](window) for window in windows(pool, n)]), expected, 5e-5)


@pytest.mark.parametrize("method", ["random", "mean_pool", "max_pool"])
@pytest.mark.parametrize(("name", "n"), PUBLISHED)
def test_prompts_start_at_published_candidates(name, n, method, recorded):
    tensors, model, pictures = recorded(name)
    candidates = tensors["pool" if method == "random" else f"{method}ing_n{n}/candidates"]
    assert_rows_of(started(model, pictures, n, method), candidates.flatten(1, 2))


@pytest.mark.parametrize("name", ["spt", "spt_vit"])
def test_shallow_prompts_start_at_tokens_of_the_input(name, recorded):
    tensors, model, pictures = recorded(name)
    assert_rows_of(started(model, pictures, 4, "random", depth=1), tensors["pool"][:1].flatten(1, 2))


class TestViT:
    """Prompts in a ViT with a linear head, which reads CLS or the mean of all other tokens, prompts included."""

    @pytest.fixture(params=["deep_cls", "deep_mean", "shallow_cls"])
    def case(self, request, vit):
        tensors, metadata = read(GOLDEN / "spt_vit.safetensors")
        named = {key.removeprefix(f"{request.param}/"): value for key, value in tensors.items()}
        n, deep = int(metadata["forward_num_prompts"]), request.param.startswith("deep")
        start = named[f"{'random' if deep else 'shallow'}_n{n}/prompts"]  # (layers, n, d)
        model = ViTForImageClassification(ViTConfig(**json.loads(metadata["config"]), num_labels=3))
        model.vit.load_state_dict(vit.state_dict())
        model.classifier.load_state_dict({name: named[f"param/head.{name}"] for name in ("weight", "bias")})
        config = vision_prompts(n, depth=len(start))
        config.modules_to_save = ["classifier"]
        model = get_peft_model(model, config).eval()
        adapter = model.prompt_learner.mudpt_adapters["default"]
        adapter.vision_prompts.data.copy_(start)
        learned = {"prompt_token": adapter.vision_prompts}
        learned |= {f"head.{name}": p for name, p in model.classifier.modules_to_save["default"].named_parameters()}
        return model, learned, named, metadata

    def outputs(self, model, images, name):
        """The feature that the head reads, and the logits."""
        if name != "deep_mean":
            features = model.vit(images).last_hidden_state[:, 0]
            return features, model(images).logits
        seen = []
        hook = model.vit.layers[-1].register_forward_hook(lambda module, args, hidden: seen.append(hidden))
        model.vit(images)
        hook.remove()
        features = model.vit.layernorm(seen[0][:, 1:].mean(dim=1))
        return features, model.classifier(features)

    def test_features_logits_gradients_and_steps_equal_the_published_ones(self, case, request):
        name = request.node.callspec.params["case"]
        model, learned, golden, metadata = case
        features, logits = self.outputs(model, golden["images"], name)
        assert_near(features, golden["features"], 5e-5)
        assert_near(logits, golden["logits"], 5e-5)
        assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in learned.values()}
        settings = {key: float(metadata[key]) for key in ("lr", "momentum", "weight_decay")}
        optimizer = torch.optim.SGD(learned.values(), **settings)
        losses = []
        for step in range(int(metadata["steps"])):
            loss = cross_entropy(self.outputs(model, golden["images"], name)[1], golden["labels"])
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                for key, parameter in learned.items():
                    assert_near(parameter.grad, golden[f"grad/{key}"], 1e-5)
            optimizer.step()
            losses.append(loss.detach())
        assert_near(torch.stack(losses), golden["train/losses"], 1e-5)
        for key, parameter in learned.items():
            assert_near(parameter.detach(), golden[f"final/{key}"], 5e-6)
