"""The model card of a trained adapter: its metadata, its text and its code."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor, CLIPModel

from peft_mudpt import PRESETS, MuDPTConfig, demo
from peft_mudpt.classifier.class_texts import ClassTexts
from peft_mudpt.classifier.saving import KnownClasses
from peft_mudpt.lab.report.card import CITATION, model_card
from peft_mudpt.lab.schema import write_result
from peft_mudpt.lab.terminal import printable


CLASS_NAMES = ["filled red star", "filled orange star", "filled red heart"]
HARMFUL = st.sampled_from(
    ["a\n---\ntags: [evil]", "`` ` ``", "x | y", "\n# Heading", "![](http://evil)", "<script>", "```\n", "a: b", "\\|"]
) | st.text(min_size=1, max_size=20).filter(lambda text: text.strip("`. /\0") and text.split())
HUB_CLIP = "openai/clip-vit-base-patch16"


def metrics(accuracy: float) -> dict:
    """Metrics of 30 pictures, whose balanced accuracy is a point lower than `accuracy`."""
    return {"accuracy": accuracy, "mean_class_accuracy": accuracy - 1, "classes": {"a": [5, 10], "b": [5, 20]}}


def result(**fields) -> dict:
    """The result of a few-shot experiment on the embedded world."""
    return {
        "schema_version": 2,
        "arguments": {"shots": 16, "seed": 3, "train_dir": None, "output_dir": "/home/somebody/outputs"},
        "dataset": "faded",
        "method": "mudpt",
        "class_names": CLASS_NAMES,
        "template": "a photo of a {}.",
        "template_after_prompts": "{}.",
        "items": {"train": ["/home/somebody/1.png"], "validation": []},
        "training_pictures": dict.fromkeys(CLASS_NAMES, 16),
        "metrics": {"test": metrics(87.604)},
        "zero_shot": {"test": metrics(51.9)},
        "summary": {"accuracy": 87.604},
        "optimizer": "sgd",
        "learning_rate": 0.0025,
        "steps": 1200,
        "loss": 0.1,
        "trainable_parameters": 176832,
        "adapter_bytes": 700000,
        "seconds": {"training": 30.0, "total": 42.0},
        "peak_memory_bytes": 1,
        "nearest_words": None,
        "versions": {"peft_mudpt": "0.1.0", "torch": "2.13.0"},
        "hardware": {"device": "cpu"},
        **fields,
    }


BASE_TO_NEW = {
    "metrics": {"base": metrics(90.0), "new": metrics(60.0)},
    "zero_shot": {"base": metrics(50.0), "new": metrics(75.0)},
    "summary": {"base": 90.0, "new": 60.0, "harmonic_mean": 72.0},
}
CROSS_DATASET = {
    "metrics": {"faded": metrics(90.0), "plain": metrics(80.0), "dark": metrics(70.0)},
    "zero_shot": {"faded": metrics(50.0), "plain": metrics(40.0), "dark": metrics(30.0)},
    "summary": {"source": 90.0, "mean_of_targets": 75.0},
}


def parsed(base_model=HUB_CLIP, hub_model_id="somebody/stars", **fields) -> ModelCard:
    """The card, parsed as by the Hub."""
    return ModelCard(str(model_card(result(**fields), base_model, hub_model_id)))


def accuracy_rows(card: ModelCard) -> list[list[str]]:
    rows = re.findall(r"^\| (.*) \|$", card.text, re.MULTILINE)[1:]  # without the header
    return [row.split(" | ") for row in rows]


def first_code(card: ModelCard) -> str:
    return re.search(r"```(\w*)\n(.*?)```", card.text, re.DOTALL)[2]


class TestMetadata:
    def test_it_names_the_clip_the_library_and_the_task(self):
        data = parsed().data
        assert (data.base_model, data.library_name) == (HUB_CLIP, "peft")
        assert data.pipeline_tag == "zero-shot-image-classification"

    def test_every_tag_occurs_once(self):
        assert parsed().data.tags == ["peft_mudpt", "mudpt", "clip", "few-shot"]

    def test_another_method_is_an_additional_tag(self):
        assert parsed(method="maple").data.tags == ["peft_mudpt", "mudpt", "clip", "few-shot", "maple"]

    def test_lora_is_not_tagged_as_mudpt(self):
        assert parsed(method="lora").data.tags == ["peft_mudpt", "clip", "few-shot", "lora"]

    def test_accuracy_is_an_evaluation_result_in_percent(self):
        data = parsed().data
        (evaluation,) = data.eval_results
        assert data.model_name == "stars"
        assert (evaluation.task_type, evaluation.metric_type) == ("image-classification", "accuracy")
        assert (evaluation.dataset_type, evaluation.dataset_split, evaluation.metric_value) == ("faded", "test", 87.6)

    def test_base_and_new_classes_are_results_beside_their_harmonic_mean(self):
        found = {e.dataset_name: (e.metric_type, e.metric_value) for e in parsed(**BASE_TO_NEW).data.eval_results}
        assert found == {
            "faded (base)": ("accuracy", 90.0),
            "faded (new)": ("accuracy", 60.0),
            "faded (base and new)": ("harmonic_mean", 72.0),
        }

    def test_each_target_is_a_separate_data_set(self):
        found = {e.dataset_type: e.metric_value for e in parsed(**CROSS_DATASET).data.eval_results}
        assert found == {"faded": 90.0, "plain": 80.0, "dark": 70.0}

    def test_a_test_set_without_metrics_is_left_out(self):
        data = parsed(metrics={"base": metrics(90.0), "new": None}, summary={"harmonic_mean": None}).data
        assert [e.dataset_name for e in data.eval_results] == ["faded (base)"]

    def test_without_any_test_picture_there_is_no_result(self):
        card = parsed(metrics={}, zero_shot={}, summary={"accuracy": None})
        assert card.data.eval_results is None and "model_name" not in card.data.to_dict()
        assert "Not measured" in card.text

    def test_the_embedded_clip_has_no_hub_id(self):
        assert parsed(demo.MODEL_PATH).data.base_model is None

    def test_only_the_name_of_a_folder_is_disclosed(self, tmp_path):
        (tmp_path / "my-clip").mkdir()
        card = parsed(str(tmp_path / "my-clip"))
        assert card.data.base_model == "my-clip"
        assert 'base = "path/to/my-clip"' in card.text and str(tmp_path) not in str(card)

    def test_a_folder_name_that_the_hub_would_refuse_is_only_in_the_text(self, tmp_path):
        (tmp_path / "my clip").mkdir()
        card = parsed(str(tmp_path / "my clip"))
        assert card.data.base_model is None and "the CLIP `my clip`" in card.text


class TestText:
    def test_it_names_the_method_and_the_data(self):
        text = parsed(method="maple", dataset="caltech101").text
        assert "# MaPLe on caltech101" in text and "arxiv.org/abs/2210.03117" in text
        assert "caltech101, 3 classes" in text and "(shots): 16" in text and "Seed: 3" in text

    def test_it_lists_the_training_options(self):
        training = parsed().text.split("## Training")[1]
        for line in (
            "Optimizer: sgd",
            "Learning rate (peak): 0.0025",
            "Steps: 1,200",
            "Versions: peft_mudpt 0.1.0, torch",
        ):
            assert f"- {line}" in training

    def test_the_table_compares_the_adapter_with_zero_shot(self):
        # Wilson's interval of 10 right of 30, by hand
        assert accuracy_rows(parsed()) == [
            ["test", "30", "87.6 % (19.2 to 51.2 %)", "51.9 % (19.2 to 51.2 %)", "86.6 %", "50.9 %"]
        ]

    def test_the_table_compares_harmonic_means(self):
        assert accuracy_rows(parsed(**BASE_TO_NEW))[-1] == ["harmonic mean", "", "72.0 %", "60.0 %", "", ""]

    def test_the_table_compares_means_of_targets(self):
        assert accuracy_rows(parsed(**CROSS_DATASET))[-1] == ["mean of targets", "", "75.0 %", "35.0 %", "", ""]

    def test_a_test_set_without_metrics_says_so(self):
        rows = accuracy_rows(parsed(metrics={"test": None}, summary={"accuracy": None}))
        assert rows == [["test", "30", "not measured", "51.9 % (19.2 to 51.2 %)", "not measured", "50.9 %"]]

    def test_it_says_if_the_pictures_are_validation_pictures(self):
        arguments = {**result()["arguments"], "evaluate_on": "validation"}
        assert "validation pictures" in parsed(arguments=arguments).text

    def test_it_lists_the_classes_and_their_templates(self):
        text = parsed().text
        assert "`filled red star`, `filled orange star`, `filled red heart`" in text
        assert "`{}.`" in text and "`a photo of a {}.`" in text

    def test_only_the_first_hundred_of_many_classes_are_listed(self):
        text = parsed(class_names=[f"class{i}" for i in range(101)]).text
        assert "The first 100 of 101: `class0`" in text and "`class99`" in text and "`class100`" not in text

    def test_a_hundred_classes_are_all_listed(self):
        text = parsed(class_names=[f"class{i}" for i in range(100)]).text
        assert "`class99`" in text and "The first" not in text

    def test_it_says_that_the_embedded_world_is_drawn(self):
        text = parsed(demo.MODEL_PATH).text
        assert "the tiny CLIP embedded in peft_mudpt" in text
        assert "drawn shapes" in text and "say nothing about CLIP on photographs" in text

    def test_it_does_not_call_photographs_drawn(self):
        assert "drawn shapes" not in parsed(dataset="caltech101").text

    def test_it_does_not_call_a_folder_drawn_that_has_the_name_of_a_style(self):
        arguments = {**result()["arguments"], "train_dir": "pictures/faded"}
        assert "drawn shapes" not in parsed(arguments=arguments).text

    @pytest.mark.parametrize("hub_model_id", [None, "somebody/stars"])
    def test_it_discloses_no_path_of_the_machine(self, hub_model_id):
        card = str(parsed(demo.MODEL_PATH, hub_model_id, dataset="/home/somebody/pictures/pets"))
        assert "/home" not in card and str(Path(demo.MODEL_PATH).parent) not in card and "# MuDPT on pets" in card

    @given(st.lists(HARMFUL, min_size=2, max_size=3), HARMFUL, HARMFUL)
    def test_names_and_texts_do_not_change_its_structure(self, names, dataset, template):
        metrics_by_name = {"metrics": {dataset: metrics(9.0)}, "zero_shot": {dataset: metrics(8.0)}}
        fields = dict(class_names=names, dataset=dataset, template_after_prompts=template, **metrics_by_name)
        harmless = dict(class_names=["x"] * len(names), dataset="x", template_after_prompts="x")
        harmless |= {"metrics": {"x": metrics(9.0)}, "zero_shot": {"x": metrics(8.0)}}
        card, other = parsed(**fields), parsed(**harmless)
        assert card.data.tags == other.data.tags and card.data.library_name == "peft"
        assert card.data.eval_results[0].dataset_type == printable(dataset)
        kinds = [[line[:1] for line in text.splitlines()] for text in (card.text, other.text)]  # heading, list, table
        assert kinds[0] == kinds[1]
        (row,) = (
            line for line in card.text.splitlines() if line.endswith("| 8.0 % (19.2 to 51.2 %) | 8.0 % | 7.0 % |")
        )
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 7

    @given(HARMFUL)
    def test_a_class_name_is_shown_literally(self, name):
        listed = parsed(class_names=[name, "b"]).text.split("## Classes\n\n")[1].splitlines()[0]
        fence = re.match("`+", listed)[0]
        shown = listed.removeprefix(fence).removesuffix(", `b`").removesuffix(fence)
        other = printable(" ".join(name.split()))
        assert shown.strip() == other.strip() and fence not in re.findall("`+", other)

    @pytest.mark.parametrize("name", ["http://evil.example", "\x1b[2Jcat", "cat\u202etac", "$$x$$", "cat\u200bfish"])
    def test_a_name_neither_becomes_a_link_nor_hides_characters(self, name):
        arguments = {**result()["arguments"], "train_dir": "x"}
        fields = dict(class_names=[name, "b"], dataset=name, template=f"a {name} {{}}", arguments=arguments)
        text = str(parsed(metrics={name: metrics(9.0)}, **fields))
        assert all(line.isprintable() for line in text.splitlines())
        body = re.sub("`[^`]*`", "", text.split("---\n")[2])
        assert name not in body

    @pytest.mark.parametrize(
        ("used", "said"), [((16, 16), "16"), ((10, 10), "10 (at most 16)"), ((3, 16), "3 to 16 (at most 16)")]
    )
    def test_it_tells_how_many_pictures_were_trained_on(self, used, said):
        assert f"(shots): {said}\n" in parsed(training_pictures=dict(zip("ab", used))).text

    def test_the_code_loads_the_revision_of_the_clip_that_was_adapted(self):
        arguments = {**result()["arguments"], "model_revision": "v2"}
        assert 'base_model_name_or_path=base, base_revision="v2")' in first_code(parsed(arguments=arguments))

    def test_the_citation_is_the_readmes(self):
        readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
        assert CITATION in readme and CITATION in parsed().text

    @pytest.mark.parametrize("method", [*PRESETS, "lora"])
    def test_every_method_with_an_adapter_has_a_card(self, method):
        assert f"(`{method}`, " in parsed(method=method).text

    def test_a_method_without_an_adapter_is_refused(self):
        with pytest.raises(ValueError, match="'linear_probe' has no adapter"):
            parsed(method="linear_probe")


@torch.no_grad()
def save_adapter(folder: Path, method: str) -> list[float]:
    """Save an adapter with large random weights. Returns the probabilities of picture.jpg from the model's forward."""
    if method == "lora":
        config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    else:
        config = MuDPTConfig.from_preset(method, init_std=0.3, class_names=CLASS_NAMES, class_template="{}.")
    torch.manual_seed(0)
    model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).eval()
    model.save_pretrained(folder)
    if method == "lora":
        KnownClasses(CLASS_NAMES, ClassTexts.given("{}.")).write(folder)
    picture = demo.paint(CLASS_NAMES[0], "sunset", np.random.default_rng(0))
    picture.save("picture.jpg", format="PNG")  # the card says .jpg, but PNG is lossless
    processor = AutoProcessor.from_pretrained(demo.MODEL_PATH, backend="pil")
    inputs = processor(text=[f"{name}." for name in CLASS_NAMES], images=picture, padding=True, return_tensors="pt")
    return model(**inputs).logits_per_image.softmax(dim=-1)[0].tolist()


class TestCode:
    @pytest.mark.parametrize("method", ["mudpt", "lora"])
    @pytest.mark.parametrize("hub_model_id", [None, "somebody/stars"])
    def test_it_runs_unchanged_and_prints_the_probabilities(self, method, hub_model_id, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / (hub_model_id or "path/to/adapter")  # PEFT takes a folder before the Hub
        probabilities = save_adapter(folder, method)
        content = result(method=method)
        write_result(folder, content)
        card = model_card(content, demo.MODEL_PATH, hub_model_id)
        card.save(folder / "README.md")
        exec(compile(first_code(ModelCard.load(folder / "README.md")), "README.md", "exec"), {})
        expected = sorted(zip(probabilities, CLASS_NAMES), reverse=True)
        assert capsys.readouterr().out.splitlines() == [f"{probability:.1%} {name}" for probability, name in expected]

    def test_it_begins_by_registering_mudpt(self):
        assert first_code(parsed()).splitlines()[0].startswith("import peft_mudpt")

    def test_it_loads_the_clip_and_the_adapter_by_their_ids(self):
        code = first_code(parsed())
        assert f'base = "{HUB_CLIP}"' in code and 'adapter = "somebody/stars"' in code


def test_the_card_lists_the_anchors_of_the_loss_and_the_average():
    anchors = {"text_anchor": "l1", "text_anchor_weight": 25, "image_anchor_weight": 0, "logit_anchor_weight": 1.5}
    text = parsed(anchors=anchors, averaging={"mean": 15.0, "std": 1.0}).text
    assert "in the loss: text (l1) 25, logits 1.5\n" in text and "mean 15 and std 1 epochs\n" in text
    assert "Anchors" not in parsed(anchors=None, averaging=None).text


def test_the_card_tells_what_was_attacked_in_training_and_in_testing():
    attack = {"objective": "embedding_kl", "eps": 8 / 255, "steps": 10}
    tested = {"name": "cross_entropy", "attack": {"eps": 4 / 255, "steps": 20}}
    tested["metrics"] = {"base": {"pictures": 1200, "clean": 80.0, "attacked": 12.34}, "new": None}
    text = parsed(adversarial={"attack": attack, "clean_weight": 0.5}, robustness=[tested]).text
    assert "attacked by `embedding_kl`, eps 8/255, 10 steps; clean ones have the weight 0.5" in text
    assert "| base | cross_entropy 4/255 | 20 | 1,200 | 80.0 % | 12.3 % |" in text
    assert "ttacked" not in parsed(adversarial=None, robustness=None).text


def test_the_card_of_an_earlier_result_lists_no_anchors():
    assert "Anchors" not in parsed().text
