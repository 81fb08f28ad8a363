"""MMRL's published code puts its tokens in above the input: a golden case of prompts that start at a later layer."""

import json

import pytest
import torch
from peft import get_peft_model
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, cross_entropy, linear, normalize

from peft_mudpt import MuDPTClassifier, MuDPTConfig
from tests.test_golden import GOLDEN, assert_near, backbone, read


__all__ = ["backbone"]  # a fixture


@pytest.fixture(scope="module")
def case():
    return read(GOLDEN / "mmrl.safetensors")


@pytest.fixture
def model(backbone, case):
    tensors, metadata = case
    options = json.loads(metadata["options"])
    config = MuDPTConfig(
        num_virtual_tokens=options["N_REP_TOKENS"],
        first_layer=options["REP_LAYERS"][0] - 1,  # recorded from 1 on
        prompt_depth=len(options["REP_LAYERS"]),
        fusion_direction="none",
    )
    model = get_peft_model(backbone, config).eval()
    adapter = model.prompt_learner.mudpt_adapters["default"]
    with torch.no_grad():
        adapter.text_prompts.copy_(tensors["rep/text"])
        adapter.vision_prompts.copy_(tensors["rep/visual"])
    yield model
    model.unload()


@torch.no_grad()
def test_features_equal_the_published_ones(model, case):
    tensors, _ = case
    # nothing was overwritten in these texts
    assert_near(model.get_text_features(tensors["input_ids"]).pooler_output, tensors["text_features"], 2e-4)
    assert_near(model.get_image_features(tensors["images"]).pooler_output, tensors["image_features"], 2e-4)


@torch.no_grad()
def test_logits_of_a_classifier_that_keeps_what_is_below_equal_the_published_ones(model, case):
    tensors, _ = case

    def tokenizer(texts, **options):
        return {"input_ids": tensors["input_ids"]}

    tokenizer.bos_token_id = tokenizer.eos_token_id = None
    classifier = MuDPTClassifier(model, [f"class {i}" for i in range(5)], "{}", tokenizer)
    output = classifier(tensors["images"])
    assert_near(100 * output.image_features @ output.class_features.T, tensors["logits"], 2e-4)


@torch.no_grad()
def test_the_frozen_teacher_is_the_model_without_its_adapter(model, case):
    tensors, _ = case
    with model.disable_adapter():
        assert_near(model.get_image_features(tensors["images"]).pooler_output, tensors["teacher/image_features"], 2e-4)


class TestTraining:
    """MMRL's own training, with its prompts computed from shared tokens, and its loss, in the place of ours."""

    @pytest.fixture
    def parameters(self, case):
        tensors, _ = case
        return {
            name.removeprefix("param/"): tensor.clone().requires_grad_()
            for name, tensor in tensors.items()
            if name.startswith("param/")
        }

    def loss(self, model, case, parameters):
        tensors, metadata = case
        options, labels = json.loads(metadata["options"]), tensors["labels"]
        shared, prompts = parameters["representation_learner.compound_rep_tokens"], {}
        for tower, short in (("text", "t"), ("vision", "v")):
            names = [f"representation_learner.compound_rep_tokens_r2{short}proj.{j}" for j in range(2)]
            layers = [linear(shared, parameters[f"{n}.weight"], parameters[f"{n}.bias"]) for n in names]
            prompts[f"base_model.model.prompt_learner.mudpt_adapters.default.{tower}_prompts"] = torch.stack(layers)
        last = []  # the states of the prompts behind the last layer, which the hooks remove
        vision, n = model.vision_model, shared.shape[0]
        watch = vision.encoder.layers[-1].register_forward_hook(lambda *args: last.append(args[-1][:, -n:]))
        inputs = {"input_ids": tensors["input_ids"], "pixel_values": tensors["images"]}
        output = functional_call(model, prompts, kwargs=inputs)
        watch.remove()
        images, texts = output.image_embeds, output.text_embeds  # normalized
        means = vision.post_layernorm(last[0]).mean(dim=1) @ parameters["image_encoder.proj_rep"]
        logits = [100 * images @ texts.T, 100 * normalize(means, dim=-1) @ texts.T]
        pairs = ((images, tensors["teacher/image_features"]), (texts, tensors["text_bank"]))
        away = sum(1 - cosine_similarity(*pair).mean() for pair in pairs)
        parts = (options["ALPHA"], logits[0]), (1 - options["ALPHA"], logits[1])
        fused = sum(share * each for share, each in parts)
        loss = sum(share * cross_entropy(each, labels) for share, each in parts) + options["REG_WEIGHT"] * away
        return loss, fused

    def test_gradients_equal_the_published_ones(self, model, case, parameters):
        tensors, _ = case
        loss, fused = self.loss(model, case, parameters)
        assert_near(loss, tensors["loss"].squeeze(), 1e-4)
        assert_near(fused, tensors["logits_fusion"], 2e-4)
        loss.backward()
        for name, parameter in parameters.items():
            assert_near(parameter.grad, tensors[f"grad/{name}"], 5e-5)

    def test_five_steps_of_sgd_end_where_the_published_ones_end(self, model, case, parameters):
        tensors, metadata = case
        numbers = {key: float(metadata[key]) for key in ("lr", "momentum", "weight_decay")}
        optimizer, losses = torch.optim.SGD(parameters.values(), **numbers), []
        for _ in range(int(metadata["steps"])):
            loss, _ = self.loss(model, case, parameters)
            losses.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert_near(torch.stack(losses), tensors["train/losses"], 1e-4)
        for name, parameter in parameters.items():
            assert_near(parameter, tensors[f"final/{name}"], 5e-6)
        _, fused = self.loss(model, case, parameters)
        assert_near(fused, tensors["final_logits_fusion"], 2e-4)
