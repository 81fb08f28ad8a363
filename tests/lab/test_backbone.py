"""The CLIP that a run adapts."""

import pytest
import torch
from transformers import OwlViTConfig, OwlViTModel

from peft_mudpt.lab.backbone import Backbone


def test_a_model_of_no_supported_family_is_refused_whatever_the_method(tmp_path):
    sizes = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    OwlViTModel(OwlViTConfig(text_config=sizes, vision_config=sizes)).save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path), torch.device("cpu"), None, None)
    with pytest.raises(ValueError, match=r"OwlViTModel \(model_type 'owlvit'\); give a whole CLIPModel"):
        backbone.load_clip()
