"""Text prompts that start from words."""

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel, get_peft_model
from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import MuDPTConfig, demo
from tests.conftest import BOS, EOS, build_clip


def text_only(**fields) -> MuDPTConfig:
    return MuDPTConfig(**{"prompt_depth": 1, "vision_prompt_depth": 0, "fusion_direction": "none", **fields})


def text_prompts(clip, config) -> torch.Tensor:
    return get_peft_model(clip, config).prompt_learner.mudpt_adapters["default"].text_prompts


@pytest.fixture
def demo_clip():
    return CLIPModel.from_pretrained(demo.MODEL_PATH).eval()


def test_an_untrained_adapter_gives_the_logits_of_plain_clip_with_these_words(demo_clip):
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    images = torch.randn(2, 3, 32, 32)

    @torch.no_grad()
    def logits(model, texts):
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        return model(**tokens, pixel_values=images).logits_per_image

    plain = logits(demo_clip, ["a photo of a red star.", "a photo of a hollow blue heart."])
    model = get_peft_model(demo_clip, text_only(text_prompt_init_text="a photo of a")).eval()
    torch.testing.assert_close(logits(model, ["red star.", "hollow blue heart."]), plain, atol=1e-5, rtol=0)


def test_words_start_the_first_prompts_of_the_input_and_no_others(demo_clip):
    torch.manual_seed(0)
    random = text_prompts(CLIPModel.from_pretrained(demo.MODEL_PATH), MuDPTConfig())
    torch.manual_seed(0)
    started = text_prompts(demo_clip, MuDPTConfig(text_prompt_init_text="a photo"))
    assert not torch.allclose(started[0, :2], random[0, :2])
    assert torch.equal(started[0, 2:], random[0, 2:]) and torch.equal(started[1:], random[1:])


def test_more_words_than_prompts_give_the_first(demo_clip):
    words = AutoTokenizer.from_pretrained(demo.MODEL_PATH)("a photo", add_special_tokens=False).input_ids
    embeddings = demo_clip.text_model.embeddings.token_embedding.weight[words].clone()
    config = MuDPTConfig.from_preset("maple", text_prompt_init_text="a photo of a")
    assert torch.equal(text_prompts(demo_clip, config)[0], embeddings)


def test_words_without_a_tokenizer_are_refused(clip):
    with pytest.raises(ValueError, match="text_prompt_init_text='a photo'.*Set tokenizer_name_or_path"):
        get_peft_model(clip, MuDPTConfig(text_prompt_init_text="a photo"))


def test_a_folder_without_a_tokenizer_is_refused_by_name(clip, tmp_path):
    with pytest.raises(ValueError, match="gives none"):
        get_peft_model(clip, MuDPTConfig(text_prompt_init_text="a photo", tokenizer_name_or_path=str(tmp_path)))


def test_a_tokenizer_of_another_model_is_refused(clip):
    config = MuDPTConfig(text_prompt_init_text="a photo", tokenizer_name_or_path=demo.MODEL_PATH)
    with pytest.raises(ValueError, match="knows only 100 tokens"):
        get_peft_model(clip, config)
    assert not hasattr(clip, "prompt_learner")


def test_no_words_at_all_are_refused(demo_clip):
    with pytest.raises(ValueError, match="holds no word"):
        get_peft_model(demo_clip, MuDPTConfig(text_prompt_init_text=" "))


def test_other_words_in_a_used_config_are_tokenized_anew(demo_clip):
    config = text_only(text_prompt_init_text="red star")
    get_peft_model(demo_clip, config).unload()
    config.text_prompt_init_text = "blue heart"
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    ids = tokenizer("blue heart", add_special_tokens=False).input_ids
    embeddings = demo_clip.text_model.embeddings.token_embedding.weight[ids].clone()
    assert torch.equal(text_prompts(demo_clip, config)[0, :2], embeddings)


def test_a_saved_adapter_loads_without_a_tokenizer(demo_clip, tmp_path):
    get_peft_model(demo_clip, MuDPTConfig(text_prompt_init_text="a photo of a")).save_pretrained(tmp_path)
    saved = MuDPTConfig.from_pretrained(tmp_path)
    saved.tokenizer_name_or_path = saved.base_model_name_or_path = "nowhere/at-all"
    saved.save_pretrained(tmp_path)
    fresh = CLIPModel.from_pretrained(demo.MODEL_PATH)
    fresh.name_or_path = ""
    for is_trainable in (False, True):
        PeftModel.from_pretrained(fresh, tmp_path, is_trainable=is_trainable).unload()


@torch.no_grad()
def test_a_saved_adapter_loads_onto_an_offloaded_base(demo_clip, tmp_path):
    model = get_peft_model(demo_clip, MuDPTConfig(text_prompt_init_text="a photo of a")).eval()
    inputs = {"input_ids": torch.tensor([[589, 376, 590]]), "pixel_values": torch.randn(1, 3, 32, 32)}
    expected = model(**inputs).logits_per_image
    model.save_pretrained(tmp_path)
    offloaded = cpu_offload(CLIPModel.from_pretrained(demo.MODEL_PATH).eval(), torch.device("cpu"))
    reloaded = PeftModel.from_pretrained(offloaded, tmp_path)
    assert torch.equal(reloaded(**inputs).logits_per_image, expected)


def test_a_base_without_numbers_is_adapted_all_the_same():
    with torch.device("meta"):
        clip = build_clip()
    config = MuDPTConfig(text_prompt_init_text="words", text_prompt_init_ids={"words": [5, 6]})
    assert text_prompts(clip, config).shape == (3, 4, 32)


@torch.no_grad()
def test_ids_that_are_given_need_no_tokenizer(clip):
    plain = clip.get_text_features(torch.tensor([[BOS, 11, 12, 5, EOS]])).pooler_output
    config = text_only(num_virtual_tokens=2, text_prompt_init_text="w", text_prompt_init_ids={"w": [11, 12]})
    model = get_peft_model(clip, config)
    prompted = model.get_text_features(torch.tensor([[BOS, 5, EOS]])).pooler_output
    torch.testing.assert_close(prompted, plain, atol=1e-6, rtol=1e-5)
