"""ViT, a vision tower that stands alone or below a head."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from peft_mudpt import MuDPTConfig, fold_adapter
from tests.conftest import checkpoint_layers, enlivened
from tests.towers.test_families import VISION


N = 3


def vit(kind=ViTModel):
    torch.manual_seed(0)
    return enlivened(kind(ViTConfig(**VISION, num_labels=5)))


def vision_prompts(**fields):
    return MuDPTConfig.from_preset("vpt_deep", **{"num_virtual_tokens": N, "init_std": 0.5, **fields})


def adapted(kind=ViTModel, **fields):
    torch.manual_seed(1)
    return get_peft_model(vit(kind), vision_prompts(**fields)).eval()


def images(number=2):
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_hand(prompts, first=0):
    """The last hidden state of the plain ViT, with prompts (layers, n, d) behind the patches from layer `first` on."""
    model = vit()
    hidden = model.embeddings(images())
    length = hidden.shape[1]
    for index, layer in enumerate(model.layers):
        if 0 <= index - first < len(prompts):
            hidden = torch.cat([hidden[:, :length], prompts[index - first].expand(len(hidden), -1, -1)], dim=1)
        hidden = layer(hidden)
    return model.layernorm(hidden)[:, :length]


@pytest.mark.parametrize(("first_layer", "depth"), [(0, "all"), (0, 2), (0, 1), (2, "all"), (1, 2)])
def test_prompts_stand_behind_the_patches_of_each_layer(first_layer, depth):
    model = adapted(first_layer=first_layer, vision_prompt_depth=depth)
    prompts = model.prompt_learner.mudpt_adapters["default"].vision_prompts.detach()
    with torch.no_grad():
        output = model(images())
    torch.testing.assert_close(output.last_hidden_state, by_hand(prompts, first_layer), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.pooler_output, model.pooler(output.last_hidden_state))


@torch.no_grad()
@pytest.mark.parametrize("return_dict", [True, False])
def test_no_output_holds_the_prompts(return_dict):
    output = adapted()(images(), output_hidden_states=True, return_dict=return_dict)
    last, _, states = output.to_tuple() if return_dict else output
    assert last.shape == (2, 5, 48)  # CLS and 4 patches
    assert [state.shape for state in states] == [(2, 5, 48)] * 5


@torch.no_grad()
def test_without_the_adapter_it_is_the_plain_vit():
    model = adapted()
    with model.disable_adapter():
        assert torch.equal(model(images()).last_hidden_state, vit()(images()).last_hidden_state)
    assert torch.equal(model.unload()(images()).last_hidden_state, vit()(images()).last_hidden_state)


def test_prompts_and_head_are_trained_saved_folded_and_loaded(tmp_path):
    model = adapted(ViTForImageClassification, modules_to_save=["classifier"])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(tuple(p.shape) for p in parameters) == [(4, N, 48), (5,), (5, 48)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for _ in range(5):
        loss = cross_entropy(model(images(4)).logits, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    expected = model(images()).logits
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(vit(ViTForImageClassification), tmp_path).eval()
    assert torch.equal(reloaded(images()).logits, expected)
    fold_adapter(reloaded)
    assert torch.equal(reloaded(images()).logits, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    gradients = []
    for checkpointed in (False, True):
        model = adapted().train()
        if checkpointed:
            checkpoint_layers(model, use_reentrant)
        model(images()).last_hidden_state[:, 0].square().sum().backward()
        gradients.append(model.prompt_learner.mudpt_adapters["default"].vision_prompts.grad)
    torch.testing.assert_close(*gradients)


def test_an_attention_mask_is_refused_by_name():
    with pytest.raises(ValueError, match="attention_mask.*disable the adapter"):
        adapted()(images(), attention_mask=torch.ones(2, 5))


def test_text_prompts_are_refused_because_there_is_no_text_tower():
    with pytest.raises(ValueError, match="no text tower.*text_prompt_depth=0"):
        get_peft_model(vit(), MuDPTConfig())
