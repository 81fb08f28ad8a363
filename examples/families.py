"""
Try what the package offers on a tiny random model of each family, and print what works as a Markdown table.

    python examples/families.py                       # all families, some minutes
    python examples/families.py --families clip,siglip

Each "yes" was computed: it gives what the family's own forward gives. It needs the extra `export`
(pip install -e ".[examples,export]").
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import normalize
from transformers import AutoProcessor, PreTrainedModel

from peft_mudpt import (
    MuDPTClassifier,
    MuDPTConfig,
    demo,
    export_classifier,
    export_encoders,
    fold_adapter,
    set_image_size,
)
from peft_mudpt.classifier.encoding import encode_layout
from peft_mudpt.classifier.layout import lay_out_classes
from peft_mudpt.classifier.texts import tokenize_texts
from peft_mudpt.lab.terminal import one_line_errors
from peft_mudpt.library_warnings import without_known_warnings
from peft_mudpt.optional import require
from peft_mudpt.towers.family import Family
from peft_mudpt.towers.registry import FAMILIES


NAMES, TEMPLATE = ["red star", "blue heart", "green circle"], "a {}."
WORDS = [7, 9]  # token ids
PROCESSOR = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
WIDTH, SIDE, PATCH = 32, 32, 8
SIZES = dict(
    hidden_size=WIDTH,
    intermediate_size=2 * WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    project_dim=WIDTH,  # of AltCLIP's texts
    vocab_size=len(PROCESSOR.tokenizer),
    bos_token_id=PROCESSOR.tokenizer.bos_token_id,
    eos_token_id=PROCESSOR.tokenizer.eos_token_id,
    pad_token_id=1,
    max_position_embeddings=24,
    image_size=SIDE,
    patch_size=PATCH,
    num_patches=16,
)


class Trial:
    """A family, a random model of it, and inputs: three texts of different lengths, and two images."""

    def __init__(self, family: Family):
        self.family = family
        self.name = family.model_class.config_class.model_type
        config = family.model_class.config_class(text_config=SIZES, vision_config=SIZES, projection_dim=WIDTH)
        torch.manual_seed(0)
        self.model: PreTrainedModel = family.model_class(config).eval()
        for parameter in self.model.parameters():
            if parameter.dim() > 1:  # livelier than a fresh model, so that every token has influence
                parameter.data.normal_(std=0.15)
        self.images = {"pixel_values": torch.randn(2, 3, SIDE, SIDE)}
        if self.name == "siglip2":  # patches of two images, of which the second has padding
            self.images = {
                "pixel_values": torch.randn(2, 16, 3 * PATCH**2),
                "pixel_attention_mask": (torch.arange(16) < torch.tensor([[16], [6]])).long(),
                "spatial_shapes": torch.tensor([[4, 4], [2, 3]]),
            }

    def adapted(self, preset: str = "mudpt", **fields) -> PeftModel:
        torch.manual_seed(1)
        config = MuDPTConfig.from_preset(preset, **{"num_virtual_tokens": 2, "init_std": 0.5, **fields})
        return get_peft_model(copy.deepcopy(self.model), config).eval()

    def texts(self, words: Sequence[int] = ()) -> dict[str, torch.Tensor]:
        """The texts of the classes, as the family's own forward takes them, with these words where prompts stand."""
        kind = self.family.text
        multiple, place = kind.pad_multiple(self.family.text_tower(self.model)), kind.tokens_before
        tokens = tokenize_texts(PROCESSOR.tokenizer, [[TEMPLATE.format(name)] for name in NAMES], multiple)
        added = {"input_ids": torch.tensor([words] * len(NAMES)), "attention_mask": torch.ones(len(NAMES), len(words))}
        longer = {
            name: torch.cat([tokens[name][:, :place], added[name].long(), tokens[name][:, place:]], dim=1)
            for name in tokens
        }
        if multiple is None:
            return longer
        return {"input_ids": longer["input_ids"][:, :multiple]}  # SigLIP has no mask, and one length

    def logits(self, model: torch.nn.Module, words: Sequence[int] = ()) -> torch.Tensor:
        return model(**self.texts(words), **self.images).logits_per_image

    def classifier(self, model: torch.nn.Module) -> MuDPTClassifier:
        return MuDPTClassifier(model, NAMES, TEMPLATE, PROCESSOR.tokenizer, PROCESSOR.image_processor)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def adapter(trial: Trial) -> None:
    """Prompts equal to words give what the words give; without the adapter, the model gives what it gave."""
    started = dict(text_prompt_init_text="words", text_prompt_init_ids={"words": WORDS})
    same(trial.logits(trial.adapted("coop", **started)), trial.logits(trial.model, WORDS))
    model, plain = trial.adapted(), trial.logits(trial.model)
    assert not torch.allclose(trial.logits(model), plain, atol=1e-2)
    with model.disable_adapter():
        same(trial.logits(model), plain)
    with torch.enable_grad():
        trial.logits(model).log_softmax(dim=1)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


def save_and_load(trial: Trial) -> None:
    model = trial.adapted()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        same(trial.logits(PeftModel.from_pretrained(copy.deepcopy(trial.model), folder).eval()), trial.logits(model))


def fold(trial: Trial) -> None:
    model = trial.adapted()
    expected = trial.logits(model)
    fold_adapter(model)
    same(trial.logits(model), expected)


def classifier(trial: Trial) -> None:
    """From image features."""
    model = trial.adapted()
    features = normalize(model.get_image_features(**trial.images).pooler_output, dim=-1)
    same(trial.classifier(model)(image_features=features).logits, trial.logits(model))


def pictures(trial: Trial) -> None:
    model = trial.adapted()
    probabilities = trial.classifier(model).predict_proba(trial.images["pixel_values"])
    same(probabilities, trial.logits(model).softmax(dim=1))


def other_image_sizes(trial: Trial) -> None:
    """Larger images give what the family gives for them when it interpolates its position embeddings."""
    model, other = trial.adapted(), trial.adapted()
    larger = torch.randn(2, 3, SIDE + PATCH, SIDE + PATCH)
    set_image_size(other, SIDE + PATCH)
    own = {} if trial.name == "tipsv2" else {"interpolate_pos_encoding": True}  # TIPSv2 always does
    expected = model.get_image_features(larger, **own).pooler_output
    same(other.get_image_features(larger).pooler_output, expected)


def packed_texts(trial: Trial) -> bool:
    """Several classes share a row."""
    model = trial.adapted()
    groups = lay_out_classes(model, trial.texts())
    same(encode_layout(model, groups), model.get_text_features(**trial.texts()).pooler_output)
    return sum(len(group.input_ids) for group in groups) < len(NAMES)


def texts_per_image(trial: Trial) -> None:
    """CoCoOp: each image is compared with the texts that it has alone."""
    model, one_by_one = trial.adapted("cocoop"), []
    for number in range(2):
        image = {name: tensor[number : number + 1] for name, tensor in trial.images.items()}
        one_by_one.append(model(**trial.texts(), **image).logits_per_image)
    same(trial.logits(model), torch.cat(one_by_one))
    if "pixel_attention_mask" not in trial.images:
        same(trial.classifier(model)(**trial.images).logits, torch.cat(one_by_one))


def exported(trial: Trial, suffix: str) -> None:
    """A file with fixed texts, and one whose texts depend on the image."""
    run = run_onnx if suffix == "onnx" else run_program
    for preset in ("mudpt", "cocoop"):
        model = trial.adapted(preset)
        with tempfile.TemporaryDirectory() as folder:
            kind = "onnx" if suffix == "onnx" else "torch_export"
            file = export_classifier(trial.classifier(model), Path(folder) / f"file.{suffix}", kind)
            same(run(file, trial.images), trial.logits(model).softmax(dim=1))


def encoders(trial: Trial) -> None:
    """An ONNX file of each encoder."""
    model = trial.adapted()
    texts, images = trial.texts(), trial.images
    with tempfile.TemporaryDirectory() as folder:
        written = export_encoders(trial.classifier(model), Path(folder) / "encoders")
        found = run_onnx(written / "text_model.onnx", texts), run_onnx(written / "vision_model.onnx", images)
    same(found[0], normalize(model.get_text_features(**texts).pooler_output, dim=-1))
    same(found[1], normalize(model.get_image_features(**images).pooler_output, dim=-1))


def run_program(file: Path, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.export.load(file).module()(inputs["pixel_values"])


def run_onnx(file: Path, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The output for those of the inputs that the file takes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    taken = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
    return torch.from_numpy(session.run(None, taken)[0])


ATTEMPTS: dict[str, Callable[[Trial], None | bool]] = {
    "adapter": adapter,
    "save, load": save_and_load,
    "fold": fold,
    "classifier": classifier,
    "pictures": pictures,
    "other image sizes": other_image_sizes,
    "packed texts": packed_texts,
    "texts per image": texts_per_image,
    "torch.export": lambda trial: exported(trial, "pt2"),
    "ONNX": lambda trial: exported(trial, "onnx"),
    "two encoders": encoders,
}


def cell(attempt: Callable[[Trial], None | bool], trial: Trial, refusals: list[str]) -> str:
    """What came of an attempt: "yes", "no", or the number of the refusal."""
    try:
        return "no" if attempt(trial) is False else "yes"
    except ValueError as error:
        refusals += [] if str(error) in refusals else [str(error)]
        return f"refused ({1 + refusals.index(str(error))})"


def main() -> None:
    families = {family.model_class.config_class.model_type: family for family in FAMILIES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(families), help="Names of families, separated by commas.")
    asked = parser.parse_args().families.split(",")
    if unknown := set(asked) - {*families}:
        parser.error(f"--families has {sorted(unknown)}; choose from {', '.join(families)}.")
    require("examples/families.py", "export", "onnx", "onnxscript", "onnxruntime")
    refusals: list[str] = []
    print(f"| model | {' | '.join(ATTEMPTS)} |")
    print("|---" * (1 + len(ATTEMPTS)) + "|")
    with torch.no_grad():
        for name in asked:
            trial = Trial(families[name])
            cells = [cell(attempt, trial, refusals) for attempt in ATTEMPTS.values()]
            print(f"| `{families[name].model_class.__name__}` | {' | '.join(cells)} |", flush=True)
    if refusals:
        print()
    for number, refusal in enumerate(refusals, start=1):
        print(f"({number}) {refusal}\n")


if __name__ == "__main__":
    with one_line_errors(), without_known_warnings():
        main()
