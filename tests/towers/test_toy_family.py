"""A family of another anatomy than CLIP's, defined in this file alone: one class per tower, one family, one entry."""

import math

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy, normalize, scaled_dot_product_attention
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from peft_mudpt import MuDPTClassifier, MuDPTConfig, fold_adapter, initialize_prompts
from peft_mudpt.classifier.encoding import encode_layout
from peft_mudpt.classifier.layout import lay_out_classes
from peft_mudpt.lab.report.words import nearest_words
from peft_mudpt.towers import registry
from peft_mudpt.towers.family import Family
from peft_mudpt.towers.text import PromptedCausalText
from peft_mudpt.towers.vision import PromptedVision
from tests.conftest import enlivened


BOS, EOS, PAD = 0, 1, 2
LENGTH = 20  # tokens that the text tower takes
NAMES, WORDS = ["one", "two", "three"], [[5, 6, 7], [5, 8], [9]]


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(self, hidden_size=32, num_hidden_layers=3, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size, self.intermediate_size, self.num_hidden_layers = hidden_size, 64, num_hidden_layers


class ToyBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, hidden, mask=None):
        query, key, value = self.qkv(self.norm(hidden))[:, None].chunk(3, dim=-1)  # 3 x (B, 1, L, d)
        hidden = hidden + self.out(scaled_dot_product_attention(query, key, value, attn_mask=mask)[:, 0])
        return hidden + self.mlp(hidden)


class ToyTrunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.blocks = nn.ModuleList([ToyBlock(config.hidden_size) for _ in range(config.num_hidden_layers)])

    def forward(self, hidden, mask=None, **kwargs):
        for block in self.blocks:
            hidden = block(hidden, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden)


class ToyPlaces(nn.Module):
    """Sinusoidal: there is no weight."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, positions):
        rates = torch.exp(-torch.arange(self.width // 2) * 0.3)
        angles = positions[..., None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ToyTokens(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.words, self.places = nn.Embedding(100, width), ToyPlaces(width)

    def forward(self, input_ids, position_ids):
        return self.words(input_ids) * math.sqrt(self.places.width) + self.places(position_ids)


class ToyTextEncoder(PreTrainedModel):
    config_class = ToyConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.tokens, self.trunk = ToyTokens(config.hidden_size), ToyTrunk(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, **kwargs):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        hidden = self.tokens(input_ids, position_ids)
        if attention_mask is None or attention_mask.dim() == 2:
            causal = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
            attention_mask = causal if attention_mask is None else causal & attention_mask[:, None, None].bool()
        hidden = self.norm(self.trunk(hidden, attention_mask, **kwargs).last_hidden_state)
        ends = (input_ids == EOS).int().argmax(dim=1)
        return BaseModelOutputWithPooling(hidden, hidden[torch.arange(len(hidden)), ends])


class ToyPatches(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.grid = nn.Conv2d(3, width, 8, 8), nn.Embedding(4, width)

    def forward(self, pixel_values):
        return self.conv(pixel_values).flatten(2).transpose(1, 2) + self.grid.weight


class ToyImageEncoder(PreTrainedModel):
    """It pools nothing: the feature is made from the mean of the patches."""

    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.patches, self.trunk = ToyPatches(config.hidden_size), ToyTrunk(config)
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        return BaseModelOutputWithPooling(self.trunk(self.patches(pixel_values), **kwargs).last_hidden_state)


class ToyModel(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.text_encoder = ToyTextEncoder(ToyConfig())
        self.image_encoder = ToyImageEncoder(ToyConfig(hidden_size=48, num_hidden_layers=4))
        self.heads = nn.ModuleDict({"text": nn.Linear(32, 40), "image": nn.Linear(48, 40)})
        self.temperature = nn.Parameter(torch.tensor(0.05))
        self.post_init()

    def text_features(self, input_ids):
        return self.heads["text"](self.text_encoder(input_ids).pooler_output)

    def forward(self, input_ids, pixel_values):
        images = self.heads["image"](self.image_encoder(pixel_values).last_hidden_state.mean(dim=1))
        return normalize(images, dim=-1) @ normalize(self.text_features(input_ids), dim=-1).t() / self.temperature


class PromptedToyText(PromptedCausalText):
    tower_class = ToyTextEncoder
    tower, projection = "text_encoder", "heads.text"
    embeddings, encoder, layers = "tokens", "trunk", "blocks"
    token_embedding, position_embedding = "words", "places"

    @classmethod
    def like(cls, tower):
        return tower.tokens.words.weight

    @classmethod
    def num_positions(cls, tower):
        return LENGTH

    @classmethod
    def embed_tokens(cls, tower, ids):
        return super().embed_tokens(tower, ids) * math.sqrt(32)

    @classmethod
    def is_eos(cls, tower, ids):
        return ids == EOS


class PromptedToyVision(PromptedVision):
    tower_class = ToyImageEncoder
    tower, projection = "image_encoder", "heads.image"
    embeddings, encoder, layers, position_embedding = "patches", "trunk", "blocks", "grid"
    patch_embedding, tokens_before_patches = "conv", 0

    @classmethod
    def image_shape(cls, config):
        return 3, 16, 16

    @classmethod
    def pooled(cls, output):
        return output.last_hidden_state.mean(dim=1)


class ToyFamily(Family):
    model_class = ToyModel
    text, vision = PromptedToyText, PromptedToyVision

    def logit_scale(self, model):
        return 1 / model.temperature


@pytest.fixture(autouse=True)
def entry(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, ToyFamily()))


def toy():
    torch.manual_seed(0)
    model = ToyModel(ToyConfig())
    return enlivened(model)


def adapted(**fields):
    model = toy()
    torch.manual_seed(1)
    return get_peft_model(model, MuDPTConfig(**{"init_std": 0.5, **fields})).eval()


def texts(*words):
    rows = [[BOS, *row, EOS] for row in words]
    return torch.tensor([row + [PAD] * (max(map(len, rows)) - len(row)) for row in rows])


def images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Tokenizer:
    """Stands for the family's own: three classes, of which the texts are known."""

    all_special_ids = [BOS, EOS, PAD]

    def __call__(self, given, padding, padding_side, pad_to_multiple_of, return_tensors):
        assert given == [f"{name}." for name in NAMES] and pad_to_multiple_of is None
        return {"input_ids": texts(*WORDS)}

    def get_vocab(self):
        return {f"word{i}": i for i in range(100)}

    def decode(self, ids):
        return f"word{ids[0]}"


def classify(model, **options):
    return MuDPTClassifier(model, NAMES, "{}.", tokenizer=Tokenizer(), **options)


def through_blocks(tower, hidden, prompts, places, mask=None):
    """(B, L, d) through the blocks, with the prompts (J, n, d) of each layer at the same places."""
    for index, block in enumerate(tower.trunk.blocks):
        if index < len(prompts):
            hidden = hidden.clone()
            hidden[:, places] = prompts[index] if index else hidden[:, places]
        hidden = block(hidden, mask)
    return hidden


def text_by_hand(model, ids):
    tower, prompts = model.text_encoder, torch.cat([*model.prompt_learner.prompts("text", 0).values()])  # (J, n, d)
    n, length = prompts.shape[1], ids.shape[1]
    with model.disable_adapter():
        words = tower.tokens.words(ids) * math.sqrt(32)
        hidden = torch.cat([words[:, :1], prompts[0].expand(len(ids), -1, -1), words[:, 1:]], dim=1)
        hidden = hidden + tower.tokens.places(torch.arange(n + length))
        mask = torch.ones(n + length, n + length, dtype=torch.bool).tril()
        hidden = tower.norm(through_blocks(tower, hidden, prompts, slice(1, 1 + n), mask))
        ends = n + (ids == EOS).int().argmax(dim=1)
        return model.heads["text"](hidden[torch.arange(len(ids)), ends])


def images_by_hand(model, pixel_values):
    tower, prompts = model.image_encoder, torch.cat([*model.prompt_learner.prompts("vision", 0).values()])  # (J, n, d)
    with model.disable_adapter():
        patches = tower.patches(pixel_values)
        hidden = torch.cat([patches, prompts[0].expand(len(patches), -1, -1)], dim=1)
        hidden = through_blocks(tower, hidden, prompts, slice(patches.shape[1], None))
        return model.heads["image"](hidden[:, : patches.shape[1]].mean(dim=1))


@torch.no_grad()
def test_features_are_those_of_the_parts_with_the_prompts_in_between():
    model, ids = adapted(), texts(*WORDS)
    expected = text_by_hand(model, ids)
    torch.testing.assert_close(model.text_features(ids), expected, atol=1e-5, rtol=1e-4)
    family = registry.family_of(model)
    features = family.image_features(model, images())
    torch.testing.assert_close(features, images_by_hand(model, images()), atol=1e-5, rtol=1e-4)
    with model.disable_adapter():
        assert not torch.allclose(model.text_features(ids), expected, atol=1e-2)
        assert not torch.allclose(family.image_features(model, images()), features, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("class_batch_size", [None, 1])
def test_packed_texts_have_the_features_of_one_text_per_row(class_batch_size):
    model = adapted()
    layout = lay_out_classes(model, {"input_ids": texts(*WORDS)}, class_batch_size)
    assert layout[0].attention_mask is not None
    torch.testing.assert_close(encode_layout(model, layout), model.text_features(texts(*WORDS)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_text_without_room_for_the_prompts_is_refused_with_what_is_left():
    with pytest.raises(ValueError, match=f"needs 21 positions.*has {LENGTH}.*max_length=16"):
        adapted().text_features(texts(range(3, 18)))


@torch.no_grad()
def test_a_classifier_gives_the_cosines_divided_by_the_temperature():
    model = adapted()
    output = classify(model)(images())
    expected = (
        normalize(images_by_hand(model, images()), dim=-1) @ normalize(text_by_hand(model, texts(*WORDS)), dim=-1).t()
    )
    torch.testing.assert_close(output.logits, expected / 0.05, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.logits, model(texts(*WORDS), images()), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_folded_adapter_gives_equal_logits():
    model = adapted()
    expected = model(texts(*WORDS), images())
    fold_adapter(model)
    assert torch.equal(model(texts(*WORDS), images()), expected)


@torch.no_grad()
def test_a_saved_adapter_gives_equal_logits(tmp_path):
    model = adapted()
    expected = model(texts(*WORDS), images())
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(toy(), tmp_path).eval()(texts(*WORDS), images()), expected)


@torch.no_grad()
def test_one_tower_takes_what_was_saved_of_the_whole(tmp_path):
    model = adapted(modules_to_save=["heads.image"])
    model.save_pretrained(tmp_path)
    expected = model.text_encoder(texts(*WORDS)).pooler_output
    alone = PeftModel.from_pretrained(toy().text_encoder, tmp_path).eval()
    assert torch.equal(alone(texts(*WORDS)).pooler_output, expected)


def test_training_changes_the_adapter_alone_and_lowers_the_loss():
    model = adapted().train()
    classifier, labels = classify(model, class_batch_size=2), torch.tensor([0, 1, 2, 0])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(5):
        output = classifier(images(), labels)
        torch.testing.assert_close(output.loss, cross_entropy(output.logits, labels))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if "mudpt_" in name}


@torch.no_grad()
def test_cached_class_features_follow_the_projection_under_its_own_name():
    model = adapted()
    classifier = classify(model)
    before = classifier.class_features()
    model.heads["text"].weight.normal_()
    assert not torch.allclose(classifier.class_features(), before, atol=1e-3)


@torch.no_grad()
def test_prompts_that_start_from_words_are_these_words():
    words = {"text_prompt_init_text": "w", "text_prompt_init_ids": {"w": [5, 6]}}
    model = adapted(**words, num_virtual_tokens=2, prompt_depth=1, vision_prompt_depth=0, fusion_direction="none")
    torch.testing.assert_close(model.text_features(texts([7])), toy().text_features(texts([5, 6, 7])))


def test_the_words_nearest_to_a_token_begin_with_itself():
    model = toy()
    near = nearest_words(model.text_encoder.tokens.words.weight[[7, 8]], model, Tokenizer(), number=1)
    assert [row[0]["word"] for row in near] == ["word7", "word8"]


@torch.no_grad()
def test_vision_prompts_start_from_pictures():
    model, tower = adapted(fusion_direction="none"), toy().image_encoder
    initialize_prompts(model, [images()])
    hidden = tower.patches(images())
    pool = [tower.patches.conv(images()).flatten(2).transpose(1, 2)]
    for block in tower.trunk.blocks[:2]:
        pool.append(hidden := block(hidden))
    prompts = model.prompt_learner.mudpt_adapters["default"].vision_prompts
    for own, tokens in zip(prompts, pool, strict=True):
        assert (torch.cdist(own, tokens.flatten(0, 1)).amin(dim=1) < 1e-3).all()
