"""The words that are nearest to learned prompts."""

from transformers import AutoTokenizer, CLIPModel

from peft_mudpt import demo
from peft_mudpt.lab.report.words import nearest_words


def test_the_embedding_of_a_word_is_nearest_to_this_word():
    clip, tokenizer = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    ids = tokenizer("photo star", add_special_tokens=False).input_ids
    embeddings = clip.text_model.embeddings.token_embedding.weight.detach()
    near = nearest_words(embeddings[ids], clip, tokenizer, number=2)
    assert [words[0] for words in near] == [{"word": "photo", "distance": 0.0}, {"word": "star", "distance": 0.0}]
    special = set(tokenizer.all_special_ids)
    others = [i for i in range(len(tokenizer)) if i not in special and i != ids[0]]
    second = min((embeddings[i] - embeddings[ids[0]]).norm().item() for i in others)
    assert abs(near[0][1]["distance"] - second) < 1e-3


def test_special_tokens_are_not_words():
    clip, tokenizer = CLIPModel.from_pretrained(demo.MODEL_PATH), AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    bos = clip.text_model.embeddings.token_embedding.weight[tokenizer.bos_token_id][None]
    assert nearest_words(bos, clip, tokenizer, number=1)[0][0]["distance"] > 0
