"""The cases of the benchmark, and the three ways (`WAYS`) to run the training step or the inference of a case."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from ... import demo
from ...classifier.bank import text_bank
from ...classifier.classifier import MuDPTClassifier
from ...classifier.texts import tokenize_classes
from ...config import MuDPTConfig
from ...library_warnings import without_known_warnings
from ...presets import PRESETS
from ...robust.attacks import PGD
from ...robust.pixels import Normalization
from ...towers.base import CONDITION
from ...towers.registry import family_of
from ..methods import METHODS


# padded: texts are padded to the text tower's full length and encoded again for each batch, as in published code.
# ours: MuDPTClassifier. plain: only CLIP's image tower, without prompts and texts, which is a lower bound.
PADDED, OURS, PLAIN = "padded", "ours", "plain"
WAYS = (PADDED, OURS, PLAIN)
KNOWN = "known"  # ours, given image features; for training that does not change them (see `knows_images`)
ATTACKED = "attacked"  # ours, after an attack on the images; for methods that learn from attacked pictures
NORMALIZATION = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
ATTACK = PGD(steps=10)  # as in AdvPT (arXiv 2311.11261)
TRAINING, INFERENCE = "training", "inference"
TASKS = (TRAINING, INFERENCE)
MODELS = {
    "tiny": CLIPConfig.from_pretrained(demo.MODEL_PATH),
    "vit_b16": CLIPConfig(vision_config={"patch_size": 16}),
}
TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL_PATH, trust_remote_code=False)
WORDS_PER_NAME = 4  # at most; similar to the names of ImageNet

DEFAULT_ADAPTER = "mudpt"
# The fields of the config of each adapter.
ADAPTERS: dict[str, dict] = {
    **PRESETS,
    "advpt": dict(METHODS["advpt"].fields),
    "mudpt_from_layer_6": dict(first_layer=6),
}

Logits = Callable[[torch.Tensor], torch.Tensor]  # images (B, 3, H, W), or their features (B, D) -> (B, C)


@dataclass(frozen=True)
class Case:
    """
    One setting of the benchmark, in which all ways (`WAYS`) are compared.

    Args:
        model: one of `MODELS`; the weights are random.
        task: one of `TASKS`.
        classes: number of classes (C).
        batch_size: images per batch (B).
        autocast: True for bfloat16 autocast, False for float32.
        compiled: True if the ways "ours" and "plain" use `torch.compile`.
        adapter: one of `ADAPTERS`.
    """

    model: str
    task: str
    classes: int
    batch_size: int
    autocast: bool = False
    compiled: bool = False
    adapter: str = DEFAULT_ADAPTER

    @property
    def described(self) -> dict[str, Any]:
        """What a row says of its case."""
        return {name: getattr(self, name) for name in ("model", "adapter", "task", "batch_size", "classes")}

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways to run it: `WAYS`, and `KNOWN` and `ATTACKED` where they apply."""
        return (*WAYS, *([KNOWN] if self.knows_images else []), *([ATTACKED] if self.attacks_images else []))

    @property
    def prompts_images(self) -> bool:
        """True if the adapter has prompts in the image tower."""
        return MuDPTConfig(**ADAPTERS[self.adapter]).num_tokens("vision") > 0

    @property
    def knows_images(self) -> bool:
        """True if image features can be computed once, because this is training, and does not change them."""
        return self.task == TRAINING and not self.prompts_images

    @property
    def attacks_images(self) -> bool:
        """True if this is training on attacked pictures."""
        method = METHODS.get(self.adapter)
        return self.task == TRAINING and method is not None and method.adversarial

    def steps(self, ways: Sequence[str], device: str) -> dict[str, Callable[[], torch.Tensor]]:
        """Prepare a step of each way; see `way_to_run`. `KNOWN` and `ATTACKED` share the CLIP of "ours"."""
        built = {way: build_model(self.model, way, device, self.adapter) for way in _models_of(ways)}
        return {way: way_to_run(way, self, built[_model_of(way)]) for way in ways}

    def models(self, ways: Sequence[str]) -> int:
        """Number of CLIPs that `steps` builds."""
        return len(_models_of(ways))


def _model_of(way: str) -> str:
    return way if way in WAYS else OURS


def _models_of(ways: Sequence[str]) -> dict[str, None]:
    """The ways whose CLIPs are needed, in order."""
    return dict.fromkeys(map(_model_of, ways))


def build_model(name: str, way: str, device: str, adapter: str = DEFAULT_ADAPTER) -> torch.nn.Module:
    """
    Build a CLIP with random weights: frozen for the way "plain", with an adapter for the others.

    Args:
        name: one of `MODELS`.
        way: one of `WAYS`.
        device: device of the model.
        adapter: one of `ADAPTERS`.

    Returns:
        The model.
    """
    torch.manual_seed(0)
    config = MODELS[name]
    # the texts are tokenized by the embedded tokenizer
    config.text_config.update({"bos_token_id": TOKENIZER.bos_token_id, "eos_token_id": TOKENIZER.eos_token_id})
    clip = CLIPModel(config)
    if way == PLAIN:
        return clip.requires_grad_(False).to(device)
    with without_known_warnings():
        return get_peft_model(clip, MuDPTConfig(**ADAPTERS[adapter])).to(device)


def class_names(classes: int) -> list[str]:
    """
    Make up class names of one to four words. Each word is one token.

    Args:
        classes: number of names.

    Returns:
        The names.
    """
    words = sorted({word for name in demo.CLASS_NAMES for word in name.split()})
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=rng.randint(1, WORDS_PER_NAME))) for _ in range(classes)]


def way_to_run(way: str, case: Case, model: torch.nn.Module) -> Callable[[], torch.Tensor]:
    """
    Prepare one step of a case: a forward pass and, in training, a backward pass.

    Args:
        way: one of `WAYS`, `KNOWN` or `ATTACKED`.
        case: the case.
        model: a model that `build_model` built for this way; for `KNOWN` and `ATTACKED`, for the way "ours".

    Returns:
        A function without arguments that runs the step and returns the logits (B, C). For inference in the way "plain"
        it returns the image features instead. It can be called repeatedly.
    """
    training, device, image_shape = case.task == TRAINING, model.device, family_of(model).image_shape(model.config)
    model.train(training)
    # without a gradient for the images, the frozen image tower would have no backward pass, as with vision prompts
    requires_grad = training and way == PLAIN and case.prompts_images
    given = torch.randn(case.batch_size, *image_shape, device=device, requires_grad=requires_grad)
    if way == KNOWN:
        with torch.no_grad():
            given = normalize(family_of(model).image_features(model, given), dim=-1)  # (B, D)
    pixels = torch.rand(case.batch_size, *image_shape, device=device)
    labels = torch.arange(case.batch_size, device=device) % case.classes
    logits = {PADDED: _padded, OURS: _ours, PLAIN: _plain, KNOWN: _known, ATTACKED: _ours}[way](case, model)

    def step() -> torch.Tensor:
        images = NORMALIZATION(ATTACK(model, NORMALIZATION, pixels)) if way == ATTACKED else given
        with torch.set_grad_enabled(training), torch.autocast(device.type, torch.bfloat16, enabled=case.autocast):
            output = logits(images)
        if output.requires_grad:
            cross_entropy(output.float(), labels).backward()
            model.zero_grad(set_to_none=True)
        return output.detach()

    return step


def _padded(case: Case, model: torch.nn.Module) -> Logits:
    names = class_names(case.classes)
    tokens = tokenize_classes(TOKENIZER, names, "{}.")
    # prompts and text together have the full length of the text tower
    family = family_of(model)
    length = family.text.num_positions(family.text_tower(model)) - model.peft_config["default"].num_tokens("text")
    padded = TOKENIZER.pad(tokens, padding="max_length", max_length=length, return_tensors="pt").to(model.device)
    if model.prompt_learner.text_depends_on_class:
        template = model.peft_config["default"].condition_template
        with model.disable_adapter():
            bank = text_bank(model, TOKENIZER, [[template.replace("{}", name)] for name in names])
        padded[CONDITION] = normalize(bank, dim=-1)
    return lambda pixel_values: model(**padded, pixel_values=pixel_values).logits_per_image


def _ours(case: Case, model: torch.nn.Module) -> Logits:
    classifier = MuDPTClassifier(model, class_names(case.classes), "{}.", TOKENIZER)
    if case.compiled and case.task == TRAINING:
        classifier.compile()
    elif case.compiled:  # a compiled classifier would not cache the text features
        family_of(model).vision_tower(model).compile()
    return lambda pixel_values: classifier(pixel_values).logits


def _known(case: Case, model: torch.nn.Module) -> Logits:
    classifier = MuDPTClassifier(model, class_names(case.classes), "{}.", TOKENIZER)
    if case.compiled:
        classifier.compile()
    return lambda image_features: classifier(image_features=image_features).logits


def _plain(case: Case, model: torch.nn.Module) -> Logits:
    family = family_of(model)
    if case.compiled:
        family.vision_tower(model).compile()
    if case.task == INFERENCE:
        return lambda pixel_values: family.image_features(model, pixel_values)
    feature_size = family.feature_size(model.config)
    class_features = normalize(torch.randn(case.classes, feature_size, device=model.device), dim=-1)
    return lambda pixel_values: family.image_features(model, pixel_values) @ class_features.t()
