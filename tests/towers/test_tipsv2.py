"""TIPSv2: scaled words, a mean over texts, registers before the patches; and a transformers that lacks it."""

from importlib.util import find_spec, module_from_spec

import pytest
import torch
from torch import nn

from peft_mudpt.lab.report.words import nearest_words
from peft_mudpt.towers import registry
from tests.towers.test_families import FAMILIES, adapted, images, text_inputs


needs_it = pytest.mark.skipif("tipsv2" not in FAMILIES, reason="transformers has TIPSv2 from 5.14 on")


class Vocabulary:
    all_special_ids = [0, 1, 2]

    def get_vocab(self):
        return {f"word{i}": i for i in range(100)}

    def decode(self, ids):
        return f"word{ids[0]}"


@needs_it
def test_the_words_nearest_to_prompts_that_start_from_words_are_these_words():
    words = dict(text_prompt_init_text="w", text_prompt_init_ids={"w": [5, 60]})
    model = adapted(FAMILIES["tipsv2"](), "coop", num_virtual_tokens=2, **words)
    (prompts,) = model.prompt_learner.prompts("text", 0).values()
    near = nearest_words(prompts[0].detach(), model.get_base_model(), Vocabulary(), number=1)
    assert near == [[{"word": "word5", "distance": 0.0}], [{"word": "word60", "distance": 0.0}]]


@needs_it
@torch.no_grad()
def test_a_tuple_holds_the_same_states_without_the_prompts():
    model, inputs = adapted(FAMILIES["tipsv2"](), "coop", num_virtual_tokens=3), text_inputs("tipsv2", [5, 6], [7])
    output = model.text_model(**inputs)
    last, pooled = model.text_model(**inputs, return_dict=False)
    assert last.shape == (2, 2, 40)
    assert torch.equal(last, output.last_hidden_state) and torch.equal(pooled, output.pooler_output)


@needs_it
def test_an_attention_mask_over_patches_is_refused():
    with pytest.raises(ValueError, match="attention_mask.*disable the adapter"):
        adapted(FAMILIES["tipsv2"]()).vision_model(images(), attention_mask=torch.ones(3, 6))


def test_a_transformers_without_it_offers_the_other_families_and_says_which_one_has_it(monkeypatch):
    spec = find_spec("peft_mudpt.towers.registry")
    older = module_from_spec(spec)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.endswith("tipsv2") else find_spec(name))
    spec.loader.exec_module(older)
    names, offered = ([type(family).__name__ for family in each.FAMILIES] for each in (registry, older))
    assert offered == [name for name in names if name != "Tipsv2Family"]

    class Tipsv2Model(nn.Module):
        class config:
            model_type = "tipsv2"

    for find in (older.find_towers, older.family_of):
        with pytest.raises(ValueError, match="TIPSv2 needs transformers 5.14 .*pip install -U transformers"):
            find(Tipsv2Model())
