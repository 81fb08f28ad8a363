"""Every supported model family, in the sizes that are published."""

import inspect
from importlib.util import find_spec

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy, normalize
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AutoTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    MetaClip2TextModelWithProjection,
    MetaClip2VisionModelWithProjection,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
)

from peft_mudpt import PRESETS, MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.classifier.texts import tokenize_classes
from peft_mudpt.towers import registry
from peft_mudpt.towers.registry import find_towers
from tests.conftest import build_clip, checkpoint_layers, completed, enlivened
from tests.towers.by_hand import text_by_hand, vision_by_hand


# Published CLIPs: width, heads, layers of the text and of the vision tower, projection width, patch and image size.
SIZES = {
    "ViT-B/32": ((512, 8, 12), (768, 12, 12), 512, 32, 224),
    "ViT-B/16": ((512, 8, 12), (768, 12, 12), 512, 16, 224),
    "ViT-L/14": ((768, 12, 12), (1024, 16, 24), 768, 14, 224),
    "ViT-L/14-336": ((768, 12, 12), (1024, 16, 24), 768, 14, 336),
    "OpenCLIP ViT-H/14": ((1024, 16, 24), (1280, 16, 32), 1024, 14, 224),
    "OpenCLIP ViT-g/14": ((1024, 16, 24), (1408, 16, 40), 1024, 14, 224),
    "OpenCLIP ViT-bigG/14": ((1280, 20, 32), (1664, 16, 48), 1280, 14, 224),
    "text width other than the projection's": ((512, 8, 12), (768, 12, 12), 640, 16, 224),
}
LENGTH, PAD = 16, 1  # positions of the small text towers; what SigLIP's texts are filled up with
TEXT = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
TEXT |= dict(max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=2, pad_token_id=PAD)
VISION = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=16)
VISION |= dict(patch_size=8)


def sized_clip(size, width=1, depth=1):
    """A CLIP of these proportions, with towers narrower and shallower by these factors."""

    def tower(hidden, heads, layers):
        sizes = dict(hidden_size=hidden // width, intermediate_size=4 * hidden // width)
        return sizes | dict(num_attention_heads=heads, num_hidden_layers=layers // depth)

    text, vision, projection, patch, image = SIZES[size]
    images = dict(patch_size=patch, image_size=image)
    towers = dict(text_config=tower(*text), vision_config=tower(*vision) | images)
    return CLIPModel(CLIPConfig(**towers, projection_dim=projection // width))


def siglip():
    torch.manual_seed(0)
    config = SiglipConfig(text_config=TEXT | dict(projection_size=48), vision_config=VISION)
    model = enlivened(SiglipModel(config))
    model.logit_bias.data.fill_(-2.0)
    return model


def metaclip_2():
    torch.manual_seed(0)
    config = MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=40)
    return enlivened(MetaClip2Model(config))


NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def altclip():
    torch.manual_seed(0)
    text = TEXT | NO_DROPOUT | dict(project_dim=24)
    return enlivened(AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=40)))


def chinese_clip():
    torch.manual_seed(0)
    text = TEXT | NO_DROPOUT
    return enlivened(ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=40)))


def tipsv2():
    torch.manual_seed(0)
    width = dict(hidden_size=40)  # of both towers
    config = transformers.Tipsv2Config(text_config=TEXT | width, vision_config=VISION | width | dict(mlp_ratio=2))
    return enlivened(transformers.Tipsv2Model(config))


# by `model_type`
FAMILIES = {
    "clip": build_clip,
    "metaclip_2": metaclip_2,
    "siglip": siglip,
    "altclip": altclip,
    "chinese_clip": chinese_clip,
}
# Every token of a text sees every other, except padding, which the tokenizer's attention mask hides.
MASKED = ["altclip", "chinese_clip"]
if find_spec("transformers.models.tipsv2"):
    FAMILIES["tipsv2"] = tipsv2
    MASKED.append("tipsv2")


def adapted(model, preset="mudpt", **fields):
    """An adapter whose prompts are large enough to matter."""
    torch.manual_seed(1)
    return get_peft_model(model, MuDPTConfig.from_preset(preset, **{"init_std": 0.5, **fields})).eval()


def texts(family, *words):
    """Texts of these words as the family's tokenizer makes them; EOS is 98 for the small CLIP, else 2."""
    bos, eos = {"clip": ([97], [98]), "siglip": ([], [2]), "tipsv2": ([], [])}.get(family, ([0], [2]))
    rows = [[*bos, *row, *eos] for row in words]
    length = LENGTH if family == "siglip" else max(map(len, rows))
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def text_inputs(family, *words):
    """The arguments that the family's tokenizer makes of texts of these words."""
    ids = texts(family, *words)
    return {"input_ids": ids, **({"attention_mask": (ids != PAD).long()} if family in MASKED else {})}


def images(size=16):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


class TestPublishedSizes:
    @pytest.mark.parametrize("size", SIZES)
    def test_prompts_have_the_widths_of_the_towers_and_the_papers_depth(self, size):
        with torch.device("meta"):
            model = get_peft_model(sized_clip(size), MuDPTConfig())
        text, vision = SIZES[size][:2]
        adapter = model.prompt_learner.mudpt_adapters["default"]
        assert tuple(adapter.text_prompts.shape) == (9, 4, text[0])
        assert tuple(adapter.vision_prompts.shape) == (9, 4, vision[0])

    # what a size changes is the same for all presets
    @pytest.mark.parametrize(
        ("size", "preset"), [*((size, "mudpt") for size in SIZES), ("ViT-B/16", "maple"), ("ViT-L/14", "ivlp")]
    )
    def test_a_step_of_training_changes_the_adapter_and_nothing_else(self, size, preset):
        torch.manual_seed(0)
        model = get_peft_model(sized_clip(size, width=8, depth=4), MuDPTConfig.from_preset(preset)).train()
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        pixel_values = torch.randn(2, 3, SIZES[size][-1], SIZES[size][-1])
        input_ids = torch.tensor([[49406, 5, 6, 49407], [49406, 7, 49407, 49407]])
        outputs = model(input_ids=input_ids, pixel_values=pixel_values)
        assert outputs.image_embeds.shape == outputs.text_embeds.shape == (2, SIZES[size][2] // 8)
        cross_entropy(outputs.logits_per_image, torch.tensor([0, 1])).backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert changed == trained

    @torch.no_grad()
    @pytest.mark.parametrize("family", FAMILIES)
    def test_positions_of_another_image_size_are_interpolated(self, family):
        model = adapted(FAMILIES[family]())
        features = model.get_image_features(images(32), interpolate_pos_encoding=True).pooler_output
        expected = vision_by_hand(model, images(32), interpolate_pos_encoding=True)
        torch.testing.assert_close(features, expected, atol=2e-5, rtol=1e-4)


class TestFamilies:
    @torch.no_grad()
    @pytest.mark.parametrize("preset", PRESETS)
    @pytest.mark.parametrize("family", FAMILIES)
    def test_features_are_those_of_the_parts_with_the_prompts_in_between(self, family, preset):
        if (family, preset) == ("siglip", "fed_dpt"):
            pytest.skip("SigLIP has no class token, so that the adapter is refused")
        fields = {"num_virtual_tokens": 4} if preset in ("coop", "fed_dpt") else {}
        model = adapted(FAMILIES[family](), preset, **fields)
        if model.prompt_learner.num_tokens("vision"):
            features = model.get_image_features(images()).pooler_output
            torch.testing.assert_close(features, vision_by_hand(model, images()), atol=2e-5, rtol=1e-4)
        if model.prompt_learner.num_tokens("text"):
            inputs = completed(model, text_inputs(family, [5, 60, 7], [8, 9], [96]))
            features = model.get_text_features(**inputs).pooler_output
            torch.testing.assert_close(features, text_by_hand(model, **inputs), atol=2e-5, rtol=1e-4)

    @torch.no_grad()
    @pytest.mark.parametrize("family", FAMILIES)
    def test_prompts_that_start_from_words_are_these_words_until_trained(self, family):
        base = FAMILIES[family]()
        words = [5, 60, 7, 8]
        whole = base(**text_inputs(family, [*words, 9, 90], [*words, 91]), pixel_values=images()).logits_per_image
        config = MuDPTConfig.from_preset(
            "coop", num_virtual_tokens=4, text_prompt_init_text="w", text_prompt_init_ids={"w": words}
        )
        model = get_peft_model(base, config).eval()
        ours = model(**text_inputs(family, [9, 90], [91]), pixel_values=images()).logits_per_image
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-5)

    @torch.no_grad()
    @pytest.mark.parametrize("family", FAMILIES)
    def test_disabled_it_is_the_base_model_bit_for_bit(self, family):
        inputs = dict(**text_inputs(family, [5, 6], [7]), pixel_values=images())
        # frozen as an adapted one is: nn.MultiheadAttention, SigLIP's head, rounds otherwise where a gradient may flow
        plain = FAMILIES[family]().requires_grad_(False)(**inputs).logits_per_image
        model = adapted(FAMILIES[family]())
        assert not torch.equal(model(**inputs).logits_per_image, plain)
        with model.disable_adapter():
            assert torch.equal(model(**inputs).logits_per_image, plain)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_its_own_loss_trains_the_adapter_alone(self, family):
        model = adapted(FAMILIES[family]()).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
        inputs = dict(**text_inputs(family, [5, 6], [7], [8]), pixel_values=images(), return_loss=True)
        losses = []
        for _ in range(10):
            loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if not p.requires_grad)

    @torch.no_grad()
    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_saved_adapter_serves_the_whole_and_each_tower_alone(self, family, tmp_path):
        model = adapted(FAMILIES[family]())
        model.save_pretrained(tmp_path)
        inputs = {"text": text_inputs(family, [5, 6], [7]), "vision": {"pixel_values": images()}}
        expected = model(**inputs["text"], **inputs["vision"]).logits_per_image
        whole = PeftModel.from_pretrained(FAMILIES[family](), tmp_path).eval()
        assert torch.equal(whole(**inputs["text"], **inputs["vision"]).logits_per_image, expected)
        for modality, (_, tower, _) in find_towers(FAMILIES[family]()).items():
            alone = PeftModel.from_pretrained(tower, tmp_path).eval()(**inputs[modality])
            inside = getattr(model, f"{modality}_model")(**inputs[modality])
            assert torch.equal(alone.last_hidden_state, inside.last_hidden_state)

    @torch.no_grad()
    def test_a_saved_adapter_serves_towers_with_a_projection(self, tmp_path):
        model, base = adapted(metaclip_2()), metaclip_2()
        model.save_pretrained(tmp_path)
        base.config.text_config.projection_dim = base.config.vision_config.projection_dim = 40
        text = MetaClip2TextModelWithProjection(base.config.text_config)
        vision = MetaClip2VisionModelWithProjection(base.config.vision_config)
        weights, ids = base.state_dict(), texts("metaclip_2", [5, 6], [7])
        text.load_state_dict({name: w for name, w in weights.items() if name.startswith("text_")})
        vision.load_state_dict({name: w for name, w in weights.items() if name.startswith("vis")})
        text, vision = (PeftModel.from_pretrained(tower.eval(), tmp_path).eval() for tower in (text, vision))
        assert torch.equal(text(ids).text_embeds, model.get_text_features(ids).pooler_output)
        assert torch.equal(vision(images()).image_embeds, model.get_image_features(images()).pooler_output)

    @torch.no_grad()
    @pytest.mark.parametrize("first_layer", [0, 1])
    @pytest.mark.parametrize("family", [family for family in FAMILIES if family != "siglip"])  # it cuts padding off
    def test_hidden_states_have_the_shapes_of_the_model_without_prompts(self, family, first_layer):
        model = adapted(FAMILIES[family](), first_layer=first_layer, num_virtual_tokens=2)
        inputs = dict(**text_inputs(family, [5, 6], [7]), pixel_values=images(), output_hidden_states=True)
        prompted = model(**inputs)
        with model.disable_adapter():
            plain = model(**inputs)
        for tower in ("text_model_output", "vision_model_output"):
            shapes = [[state.shape for state in output[tower].hidden_states] for output in (prompted, plain)]
            assert shapes[0] == shapes[1]
            assert prompted[tower].last_hidden_state.shape == plain[tower].last_hidden_state.shape

    def test_the_place_of_return_loss_is_that_in_the_models_forward(self):
        for family in registry.FAMILIES:
            _, *names = inspect.signature(family.model_class.forward).parameters
            assert names[family.return_loss_place] == "return_loss"
            names = tuple(inspect.signature(family.text.tower_class.forward).parameters)
            assert names[1 : 1 + len(family.text.argument_names)] == family.text.argument_names

    @torch.no_grad()
    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_classifier_gives_the_logits_of_the_model_itself(self, family):
        model = adapted(FAMILIES[family]())
        classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer=Tokenizer(family))
        expected = model(**text_inputs(family, *WORDS), pixel_values=images()).logits_per_image
        torch.testing.assert_close(classifier(images()).logits, expected, atol=2e-5, rtol=1e-5)
        with model.disable_adapter():
            expected = model(**text_inputs(family, *WORDS), pixel_values=images()).logits_per_image
            torch.testing.assert_close(classifier(images()).logits, expected, atol=2e-5, rtol=1e-5)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_classifier_trains_and_follows(self, family):
        model = adapted(FAMILIES[family]()).train()
        classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer=Tokenizer(family), class_batch_size=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(5):
            loss = classifier(images(), torch.tensor([0, 1, 0])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():  # by what is remembered, which must be the new state
                losses.append((loss.item(), classifier(images(), torch.tensor([0, 1, 0])).loss.item()))
        for (_, after), (before, _) in zip(losses, losses[1:]):
            assert after == pytest.approx(before, rel=1e-5)
        assert losses[-1][1] < losses[0][0]

    @pytest.mark.parametrize("use_reentrant", [True, False])
    @pytest.mark.parametrize("family", [family for family in FAMILIES if family != "clip"])
    def test_gradient_checkpointing_changes_no_gradient(self, family, use_reentrant):
        gradients = []
        for checkpointing in (False, True):
            model = adapted(FAMILIES[family]()).train()
            if checkpointing:
                checkpoint_layers(model, use_reentrant)
            logits = model(**text_inputs(family, [5, 6], [7]), pixel_values=images()).logits_per_image
            cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


NAMES, WORDS = ["one", "two"], [[5, 60, 7], [8]]


class Tokenizer:
    """Stands for a family's own: two classes, of which two texts each are known."""

    words = dict(zip(("one.", "two."), WORDS))
    words |= {f"a photo of a {name}": [9, 10, 11, 9, *own] for name, own in words.items()}

    def __init__(self, family):
        self.family = family

    bos_token_id = eos_token_id = None

    def __call__(self, texts_given, padding, padding_side, pad_to_multiple_of, return_tensors):
        assert padding is True and padding_side == "right"
        tokens = text_inputs(self.family, *(self.words[text] for text in texts_given))
        if pad_to_multiple_of is not None:
            assert tokens["input_ids"].shape[1] % pad_to_multiple_of == 0
        return tokens


class TestSiglipText:
    """No BOS, every token sees every other, and the last one counts: the length of the padded text matters."""

    def test_a_text_without_room_for_the_prompts_is_refused_with_what_is_left(self):
        model = adapted(siglip())
        with pytest.raises(ValueError, match=r"needs 19 positions with its 4 .* has 16: 12 tokens are left"):
            model.get_text_features(texts("siglip", [5], list(range(5, 18))))

    @torch.no_grad()
    def test_one_that_just_fits_does(self):
        model = adapted(siglip(), "coop", num_virtual_tokens=4)
        ids = torch.tensor([[*range(5, 16), 2, 2, 2, 2, 2]])  # padded with EOS: one of them stays
        features = model.get_text_features(ids).pooler_output
        torch.testing.assert_close(features, text_by_hand(model, ids), atol=2e-5, rtol=1e-4)

    @torch.no_grad()
    def test_the_mask_of_the_padding_is_ignored_with_a_warning(self):
        model, ids = adapted(siglip()), texts("siglip", [5, 6, 7], [8])
        expected = model.get_text_features(ids).pooler_output
        with pytest.warns(UserWarning, match="attention_mask was ignored"):
            masked = model.get_text_features(ids, attention_mask=(ids != PAD).long()).pooler_output
        assert torch.equal(masked, expected)
        assert torch.equal(model.get_text_features(ids, attention_mask=torch.ones_like(ids)).pooler_output, expected)

    @torch.no_grad()
    def test_a_mask_over_pairs_of_tokens_is_obeyed(self):
        model, ids = adapted(siglip()), texts("siglip", [5, 6, 7])[:, :8]
        mask = torch.ones(1, 1, 12, 12, dtype=torch.bool)
        mask[..., 4] = False  # nothing sees the first word
        mask[..., 4, 4] = True
        options = dict(attention_mask=mask, position_ids=torch.arange(4, 12)[None])
        other = ids.masked_fill(ids == 5, 9)
        features = [model.get_text_features(each, **options).pooler_output for each in (ids, other)]
        assert torch.equal(*features)

    @torch.no_grad()
    def test_what_its_processor_makes_gives_the_classifiers_logits(self):
        class Masking(Tokenizer):
            def __call__(self, *args, **kwargs):
                ids = super().__call__(*args, **kwargs)["input_ids"]
                return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

        model, tokenizer = adapted(siglip()), Masking("siglip")
        classifier = MuDPTClassifier(model, NAMES, "{}.", tokenizer=tokenizer)
        inputs = tokenize_classes(tokenizer, NAMES, "{}.", multiple=LENGTH)
        with pytest.warns(UserWarning, match="attention_mask was ignored"):
            logits = model(**inputs, pixel_values=images()).logits_per_image
        torch.testing.assert_close(logits, classifier(images()).logits, atol=1e-5, rtol=1e-5)

    def test_positions_that_cannot_be_honoured_are_refused(self):
        model, ids = adapted(siglip()), texts("siglip", [5, 6])[:, :4]
        for positions in ([[-1, 0, 1, 2]], [[0, 1, 2, 12]]):
            with pytest.raises(ValueError, match="position_ids must lie between 0 and 11"):
                model.get_text_features(ids, position_ids=torch.tensor(positions))

    @torch.no_grad()
    def test_compiled_it_is_one_graph_and_refuses_as_well_what_it_cannot_place(self):
        model = adapted(siglip())
        torch.compiler.reset()
        compiled = torch.compile(model.get_text_features, fullgraph=True, backend="eager")
        ids = texts("siglip", [5, 6], [7])
        expected = model.get_text_features(ids).pooler_output
        torch.testing.assert_close(compiled(ids).pooler_output, expected, atol=1e-5, rtol=1e-5)
        with pytest.raises((IndexError, RuntimeError), match="(?i)index"):
            compiled(texts("siglip", list(range(5, 18)), [7]))

    def test_a_class_text_without_room_is_refused_by_number(self):
        class Long(Tokenizer):
            def __call__(self, *args, **kwargs):
                return {"input_ids": texts("siglip", [5], list(range(5, 18)))}

        with pytest.raises(ValueError, match="text of class 1 .* has 15 tokens.*Shorten it to 12"):
            MuDPTClassifier(adapted(siglip()), NAMES, "{}.", tokenizer=Long("siglip"))


@torch.no_grad()
@pytest.mark.parametrize(
    ("classifier", "tower", "base"),
    [(CLIPForImageClassification, "vision_model", build_clip), (SiglipForImageClassification, "vision_model", siglip)],
)
def test_an_image_classifier_on_top_takes_the_adapters_side(classifier, tower, base, tmp_path):
    adapted(base()).save_pretrained(tmp_path)
    head = classifier(base().config).eval()
    getattr(head, tower).load_state_dict(getattr(base(), tower).state_dict())
    plain = head(images()).logits
    model = PeftModel.from_pretrained(head, tmp_path).eval()
    patches = PeftModel.from_pretrained(base(), tmp_path).vision_model(images()).last_hidden_state
    patches = patches[:, 1:] if base is build_clip else patches
    torch.testing.assert_close(model(images()).logits, head.classifier(patches.mean(dim=1)), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model(images()).logits, plain, atol=1e-4)


@torch.no_grad()
def test_with_its_own_tokenizer_classes_are_padded_to_the_length_of_the_table(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    text = TEXT | dict(vocab_size=len(tokenizer), projection_size=48)
    model = adapted(enlivened(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))))
    classifier = MuDPTClassifier(model, ["red star", "blue heart"], "{}.", tokenizer)
    padded = dict(padding="max_length", max_length=LENGTH, return_tensors="pt")
    ids = tokenizer(["red star.", "blue heart."], **padded).input_ids
    features = normalize(model.get_text_features(ids).pooler_output, dim=-1)
    torch.testing.assert_close(classifier.class_features(), features, atol=1e-6, rtol=1e-5)
