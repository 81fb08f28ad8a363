import torch

from peft_mudpt import MuDPTConfig
from peft_mudpt.config import TowerShape
from peft_mudpt.prompts.prompts import MultiModalPrompts


TOWERS = {"text": TowerShape(8, 4), "vision": TowerShape(12, 4)}


def prompts_of(**fields) -> MultiModalPrompts:
    config = MuDPTConfig(**fields)
    config.resolve(TOWERS)
    return MultiModalPrompts(config)


def test_both_directions_read_the_raw_prompts_of_the_same_layer():
    prompts = prompts_of(fusion_type="linear")
    forth, back = (net.networks["all_layers"] for net in (prompts.text_to_vision, prompts.vision_to_text))
    text, vision = prompts.text_prompts[1:], prompts.vision_prompts[1:]
    torch.testing.assert_close(prompts.effective("text", range(1, 4)), text + vision @ back.weight.T + back.bias)
    torch.testing.assert_close(prompts.effective("vision", range(1, 4)), vision + text @ forth.weight.T + forth.bias)


def test_the_text_input_takes_nothing_in():
    prompts = prompts_of()
    assert torch.equal(prompts.effective("text", range(1)), prompts.text_prompts[:1])
    assert not torch.allclose(prompts.effective("vision", range(1)), prompts.vision_prompts[:1])


def test_layers_beyond_the_shallower_tower_keep_their_own_prompts():
    prompts = prompts_of(text_prompt_depth=2, vision_prompt_depth=4)
    fused, *own = prompts.effective("vision", range(1, 4))
    assert torch.equal(torch.stack(own), prompts.vision_prompts[2:])
    assert not torch.allclose(fused, prompts.vision_prompts[1])


def test_replace_leaves_the_target_no_prompts_of_its_own():
    prompts = prompts_of(fusion_direction="text_to_vision", fusion_combine="replace", fusion_type="linear")
    assert prompts.vision_prompts is None
    network = prompts.text_to_vision.networks["all_layers"]
    torch.testing.assert_close(prompts.effective("vision", range(3, 4)), network(prompts.text_prompts[3:]))


def test_vision_to_text_replace_keeps_the_text_input():
    prompts = prompts_of(fusion_direction="vision_to_text", fusion_combine="replace")
    assert prompts.text_prompts.shape == (1, 4, 8)
    assert prompts.effective("text", range(4)).shape == (4, 4, 8)
    assert torch.equal(prompts.effective("text", range(4))[0], prompts.text_prompts[0])


def test_at_depth_one_nothing_goes_from_vision_to_text():
    prompts = prompts_of(prompt_depth=1)
    assert prompts.vision_to_text is None
    assert all(parameter.requires_grad for parameter in prompts.parameters())


def test_random_prompts_have_the_configured_spread():
    torch.manual_seed(0)
    prompts = prompts_of(num_virtual_tokens=200, init_std=0.5)
    assert abs(prompts.text_prompts.std().item() - 0.5) < 0.02
