"""What the cached results of a frozen CLIP depend on: whatever changes must change the key."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoImageProcessor

from peft_mudpt import MuDPTConfig, demo
from peft_mudpt.classifier.loading import ModelSource
from peft_mudpt.lab.backbone import Backbone
from peft_mudpt.lab.data.folders import load_folders
from peft_mudpt.lab.feature_keys import image_features_key, logits_key, text_bank_key
from tests.lab.test_experiment import save_pictures


NAMES = ["filled red star", "hollow blue heart"]
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def backbone():
    return Backbone.load(ModelSource(demo.MODEL_PATH), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Path(save_pictures(tmp_path_factory.mktemp("pictures") / "train", 2))


def pictures_of(folder):
    return load_folders(folder).train


@pytest.fixture
def key_of(backbone, folder):
    """Makes the keys of the image features and of the predictions, with some things replaced."""

    def make(model=None, processor=None, pictures=None, batch_size=4, names=NAMES, template=TEMPLATE, tokenizer=None):
        model = model or backbone.load_clip()
        classifier = replace(backbone, tokenizer=tokenizer or backbone.tokenizer).classifier(model, names, template)
        processor, pictures = processor or backbone.image_processor, pictures or pictures_of(folder)
        images = image_features_key(Accelerator(), classifier.eval(), processor, pictures, batch_size)
        return images, logits_key(images, classifier, backbone.tokenizer)

    return make


def test_the_same_things_loaded_again_have_the_same_keys(key_of):
    assert key_of() == key_of()


def changed_weight(clip, name):
    with torch.no_grad():
        parameter = clip.get_parameter(name).flatten()
        parameter[-1] = torch.nextafter(parameter[-1], torch.tensor(torch.inf))
    return clip


VISION = "vision_model.encoder.layers.1.mlp.fc2.weight"


@pytest.mark.parametrize("name", [VISION, "visual_projection.weight", "vision_model.post_layernorm.bias"])
def test_the_last_bit_of_a_weight_of_the_image_tower_changes_both_keys(key_of, backbone, name):
    images, predictions = key_of()
    others = key_of(changed_weight(backbone.load_clip(), name))
    assert others[0] != images and others[1] != predictions


@pytest.mark.parametrize(
    "name", ["text_projection.weight", "logit_scale", "text_model.embeddings.token_embedding.weight"]
)
def test_the_last_bit_of_another_weight_changes_the_predictions_only(key_of, backbone, name):
    clip = backbone.load_clip()
    if name == "logit_scale":
        clip.logit_scale.data += 1e-6
    else:
        clip = changed_weight(clip, name)
    images, predictions = key_of()
    others = key_of(clip)
    assert others[0] == images and others[1] != predictions


def lora(clip):
    torch.manual_seed(0)
    return get_peft_model(clip, LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))


def test_an_adapter_that_only_prompts_texts_shares_the_image_features(key_of, backbone):
    model = get_peft_model(backbone.load_clip(), MuDPTConfig.from_preset("coop"))
    assert key_of(model, template="{}.")[0] == key_of()[0]


def test_an_adapter_of_the_image_tower_its_strength_and_its_switch_change_the_key(key_of, backbone):
    model = lora(backbone.load_clip())
    plain, active = key_of()[0], key_of(model)[0]
    with model.disable_adapter():
        disabled = key_of(model)[0]
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 3.0)
    assert len({str(key) for key in (plain, active, disabled, key_of(model)[0])}) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_precision_changes_the_key(key_of, backbone, dtype):
    assert key_of(backbone.load_clip().to(dtype))[0] != key_of()[0]
    images = key_of()[0]
    with torch.autocast("cpu", dtype):
        assert key_of()[0] != images


def test_another_activation_with_the_same_weights_changes_the_key(key_of, backbone):
    clip = backbone.load_clip()
    other = copy.deepcopy(clip.config)
    other.vision_config.hidden_act = "gelu" if other.vision_config.hidden_act != "gelu" else "relu"
    model = type(clip)(other)
    model.load_state_dict(clip.state_dict())
    assert key_of(model.eval())[0] != key_of()[0]


@pytest.mark.parametrize(
    "settings",
    [{"image_mean": [0.4, 0.5, 0.5]}, {"resample": 0}, {"do_center_crop": False}, {"rescale_factor": 1 / 256}],
)
def test_another_setting_of_the_image_processor_changes_the_key(key_of, settings):
    other = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil", **settings)
    assert key_of(processor=other)[0] != key_of()[0]


def test_an_image_processor_with_other_code_and_the_same_settings_changes_the_key(key_of, backbone):
    class Brighter(type(backbone.image_processor)):
        def __call__(self, *args, **kwargs):
            output = super().__call__(*args, **kwargs)
            output["pixel_values"] = output["pixel_values"] + 0.1
            return output

    other = Brighter.from_pretrained(demo.MODEL_PATH)
    assert key_of(processor=other)[0]["first picture"] != key_of()[0]["first picture"]


def test_other_pictures_another_order_and_another_content_change_the_key(key_of, tmp_path):
    folder = Path(save_pictures(tmp_path / "pictures", 2))
    pictures = pictures_of(folder)
    images = key_of(pictures=pictures)[0]
    backwards = pictures.select(range(len(pictures))[::-1])
    assert key_of(pictures=backwards)[0] != images
    assert key_of(pictures=pictures.select(range(len(pictures) - 1)))[0] != images
    path = Path(pictures[0]["image"]["path"])
    before = os.stat(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copied with its times
    assert key_of(pictures=pictures)[0] != images


def test_another_size_of_the_batch_changes_the_key_because_last_bits_depend_on_it(key_of):
    assert key_of(batch_size=5)[0] != key_of()[0]


def test_other_texts_change_the_predictions_only(key_of):
    images, predictions = key_of()
    for change in ({"template": "a drawing of a {}."}, {"names": NAMES[::-1]}, {"names": [*NAMES, "hollow red star"]}):
        others = key_of(**change)
        assert others[0] == images and others[1] != predictions


def test_a_text_bank_depends_on_its_texts_and_on_the_text_tower_only(backbone):
    def key(clip, texts=(["a red star."], ["a blue heart.", "a heart."]), class_batch_size=None):
        model = get_peft_model(clip, MuDPTConfig.from_preset("maple"))
        return text_bank_key(Accelerator(), model, backbone.tokenizer, texts, class_batch_size)

    plain = key(backbone.load_clip())
    assert key(changed_weight(backbone.load_clip(), VISION)) == plain
    others = [
        key(changed_weight(backbone.load_clip(), "text_projection.weight")),
        key(changed_weight(backbone.load_clip(), "text_model.embeddings.token_embedding.weight")),
        key(backbone.load_clip().to(torch.bfloat16)),
        key(backbone.load_clip(), [["a red star.", "a blue heart."], ["a heart."]]),  # divided otherwise
        key(backbone.load_clip(), class_batch_size=1),
    ]
    assert len({str(one) for one in [plain, *others]}) == 6
