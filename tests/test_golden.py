"""The numbers of the published implementations (tests/golden/README.md), variant by variant."""

import json
from pathlib import Path
from typing import Optional

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel

from peft_mudpt import convert_checkpoint


GOLDEN = Path(__file__).parent / "golden"
IMPLEMENTATIONS = ("coop", "cocoop", "tcp", "vpt", "mpt", "maple", "mudpt", "umudpt", "uumudpt")


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}, handle.metadata()


@pytest.fixture(scope="module")
def backbone():
    tensors, metadata = read(GOLDEN / "backbone.safetensors")
    clip = CLIPModel(CLIPConfig(**json.loads(metadata["config"]))).eval()
    rows = torch.zeros_like(clip.text_model.embeddings.token_embedding.weight)
    rows[tensors["token_embedding.ids"]] = tensors["token_embedding.rows"].float()
    weights = {key.removeprefix("model/"): value.float() for key, value in tensors.items() if key.startswith("model/")}
    weights["text_model.embeddings.token_embedding.weight"] = rows
    clip.load_state_dict(weights)
    return clip


class Case:
    """
    One golden case, with its parameters loaded into an adapter on the backbone: the recorded ones, or those of a
    checkpoint whose method is recognized.
    """

    def __init__(self, method: str, backbone: CLIPModel, checkpoint: Optional[dict] = None):
        self.tensors, self.metadata = read(GOLDEN / f"{method}.safetensors")
        self.method = method
        config, weights = convert_checkpoint(checkpoint or self.named("param"), None if checkpoint else method)
        self.model = get_peft_model(backbone, config).eval()
        set_peft_model_state_dict(self.model, weights)
        # the recorded ids hold placeholders where the prompts stand; here the adapter makes the room itself
        n = int(self.metadata["n_ctx_text"])
        ids = self.tensors["input_ids"]
        self.inputs = {
            "input_ids": torch.cat([ids[:, :1], ids[:, 1 + n :]], dim=1),
            "pixel_values": self.tensors["images"],
        }
        if method == "tcp":
            self.inputs["mudpt_condition"] = self.tensors["text_bank"]

    def named(self, group: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(f"{group}/"): t for key, t in self.tensors.items() if key.startswith(f"{group}/")}

    def converted(self, group: str) -> dict[str, torch.Tensor]:
        return convert_checkpoint(self.named(group), self.method)[1]

    def text_features(self, image_features: torch.Tensor) -> torch.Tensor:
        """The features (C, D) of the classes; (B, C, D) if they depend on the B images."""
        of_texts = {name: value for name, value in self.inputs.items() if name != "pixel_values"}
        if not self.model.prompt_learner.text_depends_on_image:
            return self.model.get_text_features(**of_texts).pooler_output
        rows = [feature.expand(len(of_texts["input_ids"]), -1) for feature in image_features]
        return torch.stack(
            [self.model.get_text_features(**of_texts, mudpt_condition=row).pooler_output for row in rows]
        )

    def loss(self) -> torch.Tensor:
        outputs = self.model(**self.inputs)
        loss = cross_entropy(outputs.logits_per_image, self.tensors["labels"])
        if self.method == "tcp":
            loss = loss + 8 * self.distance_from_bank(outputs.text_embeds)
        return loss

    def distance_from_bank(self, features: torch.Tensor) -> torch.Tensor:
        return 1 - cosine_similarity(features, self.tensors["text_bank"]).mean()

    def train(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """The losses before each of the recorded number of steps."""
        self.model.train()
        losses = []
        for _ in range(int(self.metadata["steps"])):
            loss = self.loss()
            losses.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.stack(losses)


@pytest.fixture(params=IMPLEMENTATIONS)
def case(request, backbone):
    case = Case(request.param, backbone)
    yield case
    case.model.unload()


def assert_near(ours, golden, tolerance):
    torch.testing.assert_close(ours, golden, atol=tolerance, rtol=0)


def test_the_backbone_is_loaded_as_it_was_recorded(backbone):
    tensors, _ = read(GOLDEN / "backbone.safetensors")
    with torch.no_grad():
        outputs = backbone(input_ids=tensors["check/input_ids"], pixel_values=tensors["check/images"])
    assert_near(outputs.logits_per_image, tensors["check/logits_per_image"], 1e-5)


def test_features_and_logits_equal_the_published_ones(case):
    with torch.no_grad():
        image_features = case.model.get_image_features(case.inputs["pixel_values"]).pooler_output
        text_features = case.text_features(image_features)
        logits = case.model(**case.inputs).logits_per_image
    assert_near(image_features, case.tensors["image_features"], 5e-5)
    assert_near(text_features, case.tensors["text_features"], 5e-5)
    assert_near(logits, case.tensors["logits"], 5e-5)


def test_the_prompts_that_reach_each_layer_equal_the_published_ones(case):
    seen = {"text": {}, "visual": {}}
    n = {"text": int(case.metadata["n_ctx_text"]), "visual": int(case.metadata["n_ctx_visual"])}
    base = case.model.get_base_model()

    def watch(tower, layer):
        def hook(module, args):
            hidden = args[0]  # (B, L, d)
            prompts = hidden[:, 1 : 1 + n[tower]] if tower == "text" else hidden[:, hidden.shape[1] - n[tower] :]
            seen[tower][layer] = prompts[0]

        return hook

    towers = {"text": base.text_model.encoder.layers, "visual": base.vision_model.encoder.layers}
    handles = [
        layer.register_forward_pre_hook(watch(tower, index))
        for tower, layers in towers.items()
        for index, layer in enumerate(layers)
    ]
    handles.append(base.vision_model.pre_layrnorm.register_forward_pre_hook(watch("visual", "first")))
    with torch.no_grad():
        case.model(**case.inputs)
    for handle in handles:
        handle.remove()

    if "fused/visual_first" in case.tensors:
        assert_near(seen["visual"]["first"], case.tensors["fused/visual_first"], 5e-5)
    for tower in ("text", "visual"):
        for index, prompts in enumerate(case.tensors.get(f"fused/{tower}_deep", ()), start=1):
            assert_near(seen[tower][index], prompts, 5e-5)


def test_gradients_equal_the_published_ones(case):
    loss = case.loss()
    assert_near(loss, case.tensors["loss"].squeeze(), 1e-5)
    loss.backward()
    key_of = {id(p): name for name, p in case.model.named_parameters()}
    gradients = {key_of[id(p)].replace(".default.", "."): p.grad for p in case.model.parameters() if p.requires_grad}
    golden = case.converted("grad")
    assert gradients.keys() == golden.keys()
    for name in golden:
        assert_near(gradients[name], golden[name], 1e-5)


def test_five_steps_of_sgd_end_where_the_published_ones_end(case):
    numbers = {key: float(case.metadata[key]) for key in ("lr", "momentum", "weight_decay")}
    trainable = [p for p in case.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, **numbers)
    assert_near(case.train(optimizer), case.tensors["train/losses"], 1e-5)
    final, golden = get_peft_model_state_dict(case.model), case.converted("final")
    assert final.keys() == golden.keys()
    for name in golden:
        assert_near(final[name], golden[name], 5e-6)
    with torch.no_grad():
        assert_near(case.model.eval()(**case.inputs).logits_per_image, case.tensors["final_logits"], 5e-5)


@pytest.fixture
def tcp(backbone):
    case = Case("tcp", backbone)
    yield case
    case.model.unload()


@torch.no_grad()
def test_the_text_bank_and_class_tokens_of_tcp_equal_the_published_ones(tcp):
    with tcp.model.disable_adapter():
        features = tcp.model.get_text_features(tcp.tensors["bank/input_ids"]).pooler_output
    assert_near(normalize(features, dim=-1), tcp.tensors["text_bank"], 5e-5)
    tokens = tcp.model.prompt_learner.mudpt_adapters["default"].class_tokens(features)
    assert_near(tokens, tcp.tensors["class_tokens"], 5e-5)


@torch.no_grad()
def test_the_losses_of_tcp_equal_the_published_ones(tcp):
    outputs = tcp.model(**tcp.inputs)
    cross_entropy_alone = cross_entropy(outputs.logits_per_image, tcp.tensors["labels"])
    assert_near(cross_entropy_alone, tcp.tensors["loss_raw/ce"].squeeze(), 1e-5)
    assert_near(tcp.distance_from_bank(outputs.text_embeds), tcp.tensors["loss_raw/text_cos"].squeeze(), 1e-5)


def test_the_steps_of_adam_of_tcp_equal_the_published_ones(tcp):
    settings = json.loads(tcp.metadata["adam"])
    del settings["steps"]
    optimizer = torch.optim.Adam([p for p in tcp.model.parameters() if p.requires_grad], **settings)
    assert_near(tcp.train(optimizer), tcp.tensors["adam/train/losses"], 1e-5)
