"""
Try what the installed libraries do otherwise than one would guess, and print it as a Markdown table.

    python examples/library_surprises.py

Each row was computed without this package, on tiny random models. What no longer holds is named at the end instead.
Rows of libraries that are not installed are left out.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
import transformers
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize, scaled_dot_product_attention
from transformers.image_utils import load_image


LAYERS = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
TEXT = dict(**LAYERS, vocab_size=100, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0)
VISION = dict(**LAYERS, image_size=32, patch_size=8)
DEPRECATED = "`is_gradient_checkpointing` is deprecated"
IDS = torch.tensor([[1, 5, 6, 2]])


def tiny(name: str = "CLIP", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(text_config=TEXT, vision_config=VISION, **options)
    return getattr(transformers, f"{name}Model")(config).eval()


def raises(error: type[Exception], function: Callable, *args, **options) -> bool:
    try:
        function(*args, **options)
    except error:
        return True
    return False


def adapter_methods_want_another_peft() -> bool:
    """`model.add_adapter` and `load_adapter` refuse the newest PEFT as too old. `get_peft_model` takes it."""
    return raises(ValueError, tiny().add_adapter, LoraConfig(target_modules=["q_proj"]))


def peft_reads_a_deprecated_name() -> bool:
    """`get_peft_model` warns that `is_gradient_checkpointing` is deprecated. Ignore it: PEFT itself reads it."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        get_peft_model(tiny(), lora())
    return any(str(warning.message).startswith(DEPRECATED) for warning in seen)


def image_processor_is_slow_without_torchvision() -> bool:
    """Without torchvision, `CLIPImageProcessor` is the class that works with Pillow, under the same name."""
    return find_spec("torchvision") is None and transformers.CLIPImageProcessor.__name__.endswith("Pil")


def transparent_pictures_have_two_backgrounds() -> bool:
    """A transparent PNG becomes black in `load_image`, and white in an image processor."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    process = transformers.CLIPImageProcessor(size={"shortest_edge": 8}, do_center_crop=False, do_normalize=False)
    with tempfile.TemporaryDirectory() as folder:
        picture.save(f"{folder}/picture.png")
        is_black = not numpy.asarray(load_image(f"{folder}/picture.png")).any()
    return is_black and numpy.asarray(process(picture)["pixel_values"]).min() == 1


def missing_tokenizer_knows_no_word() -> bool:
    """From a folder with a CLIP and no tokenizer, `AutoTokenizer` makes one that knows no word, and no error."""
    with tempfile.TemporaryDirectory() as folder:
        tiny().save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return len(tokenizer) == len(tokenizer.all_special_tokens)


def siglip_reads_the_mask_of_its_padding() -> bool:
    """SigLIP was trained to see its padding. With an `attention_mask` it gives other features, and no warning."""
    ids, mask = torch.tensor([[5, 6, 2] + [0] * 13]), torch.tensor([[1, 1, 1] + [0] * 13])
    model = tiny("Siglip")
    plain, masked = (model.get_text_features(ids, attention_mask=m).pooler_output for m in (None, mask))
    return bool((normalize(plain, dim=-1) - normalize(masked, dim=-1)).abs().max() > 0.1)


def half_precision_loses_large_features() -> bool:
    """In float16, an image feature with a norm above 256 gives logits of 0: its square is infinite."""
    model = tiny(projection_dim=32).half()
    model.visual_projection.weight.data.mul_(2000)
    return not model(input_ids=IDS, pixel_values=torch.ones(1, 3, 32, 32).half()).logits_per_image.any()


def eager_attention_adds_boolean_masks() -> bool:
    """Eager attention adds a mask of four axes to the scores, so that a boolean one hides nothing. SDPA obeys it."""
    only_itself, others = torch.eye(4, dtype=torch.bool)[None, None], IDS[:, [0, 2, 1, 3]]

    def is_obeyed(kind: str) -> bool:
        tower = tiny(attn_implementation=kind).text_model
        last = [tower(ids, attention_mask=only_itself).last_hidden_state[:, -1] for ids in (IDS, others)]
        return torch.allclose(*last)

    return is_obeyed("sdpa") and not is_obeyed("eager")


def chinese_clip_has_no_pooled_text() -> bool:
    """The text tower of Chinese CLIP returns `pooler_output=None`; the model projects the state of token 0."""
    return tiny("ChineseCLIP").text_model(IDS).pooler_output is None


def altclip_has_fewer_positions_than_rows() -> bool:
    """AltCLIP counts positions from the padding's on: a table of 20 rows takes texts of 18 tokens."""
    config = dict(TEXT, max_position_embeddings=20, pad_token_id=1, project_dim=32)
    tower = transformers.AltCLIPTextModel(transformers.AltCLIPTextConfig(**config)).eval()
    tower(torch.full((1, 18), 5))
    return raises((IndexError, RuntimeError), tower, torch.full((1, 19), 5))


def sixteen_bits_of_gray_become_white() -> bool:
    """`convert("RGB")` cuts a 16-bit gray picture off at 255: nearly all of it becomes white."""
    picture = Image.fromarray(numpy.full((8, 8), 0x1234, numpy.uint16))
    return numpy.asarray(picture.convert("RGB")).min() == 255


def class_folders_decide_the_split() -> bool:
    """`load_dataset("imagefolder")` takes a class folder "test tube" for test pictures, and leaves out the others."""
    import datasets

    with tempfile.TemporaryDirectory() as folder:
        for name in ("beaker", "test tube"):
            (Path(folder) / name).mkdir()
            Image.new("RGB", (8, 8)).save(f"{folder}/{name}/1.png")
        datasets.disable_progress_bars()
        found = datasets.load_dataset("imagefolder", data_dir=folder, cache_dir=f"{folder}/cache")
        return list(found) == ["test"] and len(found["test"]) == 1


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"target_modules": ["q_proj"], "r": 2, **options})


def hotswapping_leaves_the_old_config() -> bool:
    """After `hotswap_adapter`, the config keeps the `lora_alpha` of the adapter before: saved, it computes wrongly."""
    with tempfile.TemporaryDirectory() as folder:
        for alpha in (2, 8):
            get_peft_model(tiny(), lora(lora_alpha=alpha)).save_pretrained(f"{folder}/{alpha}")
        model = PeftModel.from_pretrained(tiny(), f"{folder}/2")
        hotswap_adapter(model, f"{folder}/8", "default")
    return model.peft_config["default"].lora_alpha == 2


def all_linear_moves_siglip() -> bool:
    """With `target_modules="all-linear"`, OLoRA changes SigLIP before any training: its head never calls a layer."""
    model, pixels = tiny("Siglip"), torch.ones(1, 3, 32, 32)
    before = model.get_image_features(pixels).pooler_output
    adapted = get_peft_model(model, lora(target_modules="all-linear", init_lora_weights="olora")).eval()
    after = adapted.get_image_features(pixels).pooler_output
    return bool((after - before).norm() > 0.3 * before.norm())


def prompt_tuning_without_a_task_says_key_error() -> bool:
    """`PromptTuningConfig` without a `task_type`, as CLIP needs it, ends in `KeyError: None`."""
    return raises(KeyError, get_peft_model, tiny(), PromptTuningConfig(num_virtual_tokens=2))


def trainer_finds_no_labels_of_an_adapted_clip() -> bool:
    """Of a `PeftModel` of CLIP, `Trainer` finds no `label_names`, and evaluates without your `compute_loss`."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(folder, use_cpu=True, report_to="none")
        return transformers.Trainer(get_peft_model(tiny(), lora()), arguments).label_names == []


def tensors_are_loaded_in_another_order() -> bool:
    """`load_file` returns tensors by the width of their type, then by name, not in the order of saving."""
    saved = {"a": torch.zeros(1, dtype=torch.int8), "b": torch.zeros(1, dtype=torch.float64), "c": torch.zeros(1)}
    with tempfile.TemporaryDirectory() as folder:
        save_file(saved, f"{folder}/tensors.safetensors")
        return list(load_file(f"{folder}/tensors.safetensors")) == ["b", "c", "a"]


def a_query_without_keys_gets_zeros() -> bool:
    """A token that may see no other gets zeros from `scaled_dot_product_attention`, not NaN as a softmax gives."""
    values, nobody = torch.ones(1, 1, 2, 4), torch.tensor([[True, True], [False, False]])
    return not scaled_dot_product_attention(values, values, values, attn_mask=nobody)[0, 0, 1].any()


def flower_refuses_bfloat16() -> bool:
    """`ArrayRecord` takes no bfloat16."""
    from flwr.app import ArrayRecord

    return raises(TypeError, ArrayRecord, {"weight": torch.zeros(1, dtype=torch.bfloat16)})


SURPRISES = {  # what was tried: the library, and where in it
    adapter_methods_want_another_peft: ("transformers", "integrations/peft.py"),
    peft_reads_a_deprecated_name: ("peft", "peft_model.py"),
    image_processor_is_slow_without_torchvision: ("transformers", "models/clip"),
    transparent_pictures_have_two_backgrounds: ("transformers", "image_utils.py, image_transforms.py"),
    missing_tokenizer_knows_no_word: ("transformers", "models/clip/tokenization_clip.py"),
    siglip_reads_the_mask_of_its_padding: ("transformers", "models/siglip/modeling_siglip.py"),
    half_precision_loses_large_features: ("transformers", "models/clip/modeling_clip.py"),
    eager_attention_adds_boolean_masks: ("transformers", "models/clip/modeling_clip.py"),
    chinese_clip_has_no_pooled_text: ("transformers", "models/chinese_clip/modeling_chinese_clip.py"),
    altclip_has_fewer_positions_than_rows: ("transformers", "models/altclip/modeling_altclip.py"),
    sixteen_bits_of_gray_become_white: ("Pillow", "Image.py"),
    class_folders_decide_the_split: ("datasets", "data_files.py"),
    hotswapping_leaves_the_old_config: ("peft", "utils/hotswap.py"),
    all_linear_moves_siglip: ("peft", "tuners/tuners_utils.py"),
    prompt_tuning_without_a_task_says_key_error: ("peft", "mapping_func.py"),
    trainer_finds_no_labels_of_an_adapted_clip: ("transformers", "trainer.py"),
    tensors_are_loaded_in_another_order: ("safetensors", "torch.py"),
    a_query_without_keys_gets_zeros: ("torch", "nn/functional.py"),
    flower_refuses_bfloat16: ("flwr", "app/record/arrayrecord.py"),
}


@torch.no_grad()
def main() -> None:
    warnings.filterwarnings("ignore", DEPRECATED)  # one of the rows is about it
    print("| what surprises | library | where |\n|---|---|---|")
    for function, (library, place) in SURPRISES.items():
        if find_spec({"Pillow": "PIL"}.get(library, library)) is None:
            print(f"not tried, because {library} is not installed: {function.__name__}", file=sys.stderr)
        elif function():
            print(f"| {function.__doc__} | {library} {version(library)} | {place} |")
        else:
            print(f"no longer so in {library} {version(library)}: {function.__doc__}", file=sys.stderr)


if __name__ == "__main__":
    main()
