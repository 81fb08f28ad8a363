"""Where the adapter and the CLIP of a classifier are loaded from."""

import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipImageProcessor

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, set_image_size
from peft_mudpt.classifier.loading import ModelSource, _with_image_size, find_adapter
from tests.classifier.conftest import NAMES


CLIP, ADAPTER = "someone/clip", "someone/adapter"


def publish(cache: Path, repository: str, revision: str, folder: Path) -> None:
    """Put a folder into a cache of the Hub, as if it had been downloaded."""
    stored, commit = cache / f"models--{repository.replace('/', '--')}", revision.encode().hex().ljust(40, "0")
    shutil.copytree(folder, stored / "snapshots" / commit)
    (stored / "refs").mkdir(exist_ok=True)
    (stored / "refs" / revision).write_text(commit)


def unreachable(monkeypatch) -> list[str]:
    """Cut the network off. Returns a list to which each file is added that the Hub is asked for."""
    asked = []

    def download(name, file, **_):
        asked.append(file)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", download)
    return asked


def save_clip(folder: Path, seed: int) -> Path:
    """The embedded CLIP with another projection, tokenizer and image processor, so that each shows in the answers."""
    shutil.copytree(demo.MODEL_PATH, folder)
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    torch.manual_seed(seed)
    torch.nn.init.normal_(clip.visual_projection.weight)
    clip.save_pretrained(folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    words = [word for word in vocabulary if word.endswith("</w>")]
    for word, index in zip(words, [vocabulary[word] for word in words[seed:] + words[:seed]]):
        vocabulary[word] = index
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    name = "preprocessor_config.json" if (folder / "preprocessor_config.json").is_file() else "processor_config.json"
    settings = json.loads((folder / name).read_text())
    (settings.get("image_processor") or settings)["image_mean"] = [0.1 * seed] * 3
    (folder / name).write_text(json.dumps(settings))
    return folder


def save_adapter(folder: Path, revision: str, seed: int) -> Path:
    """Two adapters: one in the folder, one in the sub-folder "second"."""
    torch.manual_seed(seed)
    fields = {"class_names": NAMES, "class_template": "{}.", "init_std": 0.5}
    clip = CLIPModel.from_pretrained(demo.MODEL_PATH)
    clip.name_or_path = CLIP
    model = get_peft_model(clip, MuDPTConfig(**fields), revision=revision)
    model.add_adapter("second", MuDPTConfig(**fields, revision=revision))
    model.save_pretrained(folder, save_embedding_layers=False)  # PEFT would look for the CLIP on the Hub
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of the Hub with two revisions of a CLIP and of an adapter, which was trained on the CLIP's "v2"."""
    made, cache = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("cache")
    for seed, revision in ((1, "main"), (2, "v2")):
        publish(cache, CLIP, revision, save_clip(made / f"clip-{revision}", seed))
        publish(cache, ADAPTER, revision, save_adapter(made / f"adapter-{revision}", "v2", seed))
    return made, cache


PICTURES = [demo.load_pictures("plain", images_per_class=1, seed=0)["image"][4]]


@pytest.mark.parametrize("revision", ["main", "v2"])
@pytest.mark.parametrize("subfolder", [None, "second"])
@pytest.mark.parametrize("base_revision", [None, "main"])
def test_each_part_comes_from_where_the_arguments_say(cache, recwarn, revision, subfolder, base_revision):
    """Of the adapter: `revision` and `subfolder`. Of the CLIP: `base_revision`, else what the adapter records."""
    made, hub = cache
    clip = made / f"clip-{base_revision or 'v2'}"
    loaded = MuDPTClassifier.from_pretrained(
        ADAPTER,
        revision=revision,
        subfolder=subfolder,
        base_revision=base_revision,
        cache_dir=hub,
        local_files_only=True,
    )
    with pytest.warns(UserWarning, match="put on"):
        expected = MuDPTClassifier.from_pretrained(
            made / f"adapter-{revision}" / (subfolder or ""),
            base_model_name_or_path=clip,
        )
    assert torch.equal(loaded.predict_proba(PICTURES), expected.predict_proba(PICTURES))


def test_the_parts_of_a_model_whose_adapter_records_a_revision_are_of_that_revision(cache):
    clip = CLIPModel.from_pretrained(CLIP, revision="v2", cache_dir=cache[1])
    assert ModelSource.of(clip, "tokenizer") == ModelSource(CLIP)
    assert ModelSource.of(get_peft_model(clip, MuDPTConfig(), revision="v2"), "tokenizer") == ModelSource(CLIP, "v2")


class TestWarning:
    @pytest.fixture
    def adapter(self, cache, tmp_path):
        def recorded(name, revision=None):
            folder = shutil.copytree(cache[0] / "adapter-main", tmp_path / "adapter", dirs_exist_ok=True)
            config = json.loads((folder / "adapter_config.json").read_text())
            config |= {"base_model_name_or_path": name, "revision": revision}
            (folder / "adapter_config.json").write_text(json.dumps(config))
            return folder

        return recorded

    @pytest.mark.parametrize("recorded", ["someone/clip-large", "/nowhere/clip-large"])
    def test_another_clip_than_the_recorded_one_is_named_with_it(self, adapter, recorded):
        with pytest.warns(UserWarning, match=f"{recorded}.*{demo.MODEL_PATH}"):
            MuDPTClassifier.from_pretrained(adapter(recorded, "v2"), base_model_name_or_path=demo.MODEL_PATH)

    @pytest.mark.parametrize("recorded", [demo.MODEL_PATH, "/moved/from/clip", "someone/clip", None])
    def test_the_recorded_clip_may_have_moved(self, adapter, recorded):
        MuDPTClassifier.from_pretrained(adapter(recorded), base_model_name_or_path=demo.MODEL_PATH)

    def test_another_revision_than_the_recorded_one_is_named_with_it(self, cache):
        with pytest.warns(UserWarning, match=f"{CLIP}, revision v2.*{CLIP}, revision main"):
            MuDPTClassifier.from_pretrained(ADAPTER, base_revision="main", cache_dir=cache[1])


class TestRefusing:
    def test_a_folder_whose_subfolders_hold_adapters_names_them(self, cache, tmp_path):
        for name in ("first", "second"):
            shutil.copytree(cache[0] / "adapter-main" / "second", tmp_path / name)
        with pytest.raises(ValueError, match="first, second.*subfolder="):
            MuDPTClassifier.from_pretrained(tmp_path)
        assert find_adapter(tmp_path, subfolder="first")[0] == tmp_path / "first"

    @pytest.mark.parametrize("options", [{"subfolder": "third"}, {"revision": "v3"}])
    def test_an_adapter_that_is_not_there(self, cache, options):
        with pytest.raises(ValueError, match=ADAPTER):
            find_adapter(ADAPTER, cache_dir=cache[1], local_files_only=True, **options)

    def test_an_adapter_without_weights(self, cache, tmp_path):
        shutil.copy(cache[0] / "adapter-main" / "adapter_config.json", tmp_path)
        with pytest.raises(ValueError, match=f"{tmp_path} holds no weights"):
            find_adapter(tmp_path)

    @pytest.mark.parametrize("base", ["/nowhere/clip", "./nowhere", "~/clip"])
    def test_a_folder_of_a_clip_that_is_not_there(self, cache, base):
        with pytest.raises(ValueError, match=f"base model {base} is not a folder .*base_model_name_or_path"):
            MuDPTClassifier.from_pretrained(cache[0] / "adapter-main", base_model_name_or_path=base)

    @pytest.mark.parametrize("text", ["null", "[]", "[" * 100_000, "{", '{"peft_type": "MUDPT", "prompt_depth": {}}'])
    def test_a_config_that_is_no_config(self, tmp_path, text):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(ValueError, match="adapter_config.json"):
            find_adapter(tmp_path)


@pytest.mark.parametrize("load", [ModelSource.tokenizer, ModelSource.image_processor, ModelSource.clip])
def test_a_hub_that_cannot_be_reached_is_asked_for_one_file(monkeypatch, load):
    asked = unreachable(monkeypatch)
    with pytest.raises(OSError):
        load(ModelSource("someone/unknown"))
    assert asked == ["config.json"]


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
def test_the_precision_has_two_names(argument):
    assert ModelSource(demo.MODEL_PATH).clip(**{argument: torch.bfloat16}).dtype == torch.bfloat16


def test_a_clip_without_a_tokenizer_is_named(tmp_path):
    CLIPModel.from_pretrained(demo.MODEL_PATH).save_pretrained(tmp_path)
    try:
        AutoTokenizer.from_pretrained(tmp_path)
    except (OSError, ValueError) as error:
        pytest.skip(f"this release of transformers refuses it itself: {error}")
    with pytest.raises(ValueError, match=f"{tmp_path} holds a model, but no tokenizer.*save_pretrained"):
        ModelSource(str(tmp_path)).tokenizer()


def test_nothing_asks_whether_to_run_the_code_of_a_repository(tmp_path, monkeypatch):
    """A CLIP whose repository brings code of its own, and an adapter with words for its prompts."""
    folder = shutil.copytree(demo.MODEL_PATH, tmp_path / "clip")
    for file, kinds in {
        "config.json": ("AutoConfig", "AutoModel"),
        "tokenizer_config.json": ("AutoTokenizer",),
        "preprocessor_config.json": ("AutoImageProcessor", "AutoProcessor"),
        "processor_config.json": ("AutoProcessor",),
    }.items():
        if (folder / file).is_file():
            settings = json.loads((folder / file).read_text())
            settings["auto_map"] = dict.fromkeys(kinds, "code.Stranger")
            (folder / file).write_text(json.dumps(settings))
    (folder / "code.py").write_text("raise SystemExit('the code of a stranger ran')")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question on the terminal"))
    source = ModelSource(str(folder))
    clip = source.clip()
    source.tokenizer()
    source.image_processor()
    get_peft_model(clip, MuDPTConfig(text_prompt_init_text="a photo", tokenizer_name_or_path=str(folder)))


def test_a_lora_adapter_records_and_finds_its_revision_too(cache, tmp_path):
    clip = CLIPModel.from_pretrained(CLIP, revision="v2", cache_dir=cache[1])
    model = get_peft_model(clip, LoraConfig(target_modules=["q_proj"]), revision="v2")
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = MuDPTClassifier.from_pretrained(tmp_path, NAMES, "{}.", cache_dir=cache[1])
    expected = MuDPTClassifier(clip.eval(), NAMES, "{}.", ModelSource(CLIP, "v2", {"cache_dir": cache[1]}).tokenizer())
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.predict_proba(pixels), expected.predict_proba(pixels))


class TestImageSize:
    def test_a_classifier_of_larger_images_predicts_what_transformers_does_with_interpolation(self, tmp_path):
        config = MuDPTConfig(class_names=NAMES, class_template="{}.", init_std=0.5)
        get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config).save_pretrained(tmp_path)
        classifier = MuDPTClassifier.from_pretrained(tmp_path, image_size=48)
        large = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
        processor = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil", **large)
        pixels = processor(PICTURES, return_tensors="pt").pixel_values
        texts = AutoTokenizer.from_pretrained(demo.MODEL_PATH)(
            [f"{n}." for n in NAMES], padding=True, return_tensors="pt"
        )
        model = PeftModel.from_pretrained(CLIPModel.from_pretrained(demo.MODEL_PATH), tmp_path).eval()
        with torch.no_grad():
            expected = model(**texts, pixel_values=pixels, interpolate_pos_encoding=True).logits_per_image.softmax(
                dim=-1
            )
        assert pixels.shape[-2:] == (48, 48)
        torch.testing.assert_close(classifier.predict_proba(PICTURES), expected, atol=1e-5, rtol=0)

    def test_an_image_processor_that_enlarges_before_it_crops_keeps_the_part_of_the_picture(self):
        processor = AutoImageProcessor.from_pretrained(
            demo.MODEL_PATH, backend="pil", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
        )
        larger = _with_image_size(processor, 64)
        assert dict(larger.size) == {"shortest_edge": 80} and dict(larger.crop_size) == {"height": 64, "width": 64}
        assert dict(processor.size) == {"shortest_edge": 40} and larger.image_mean == processor.image_mean

    def test_an_image_processor_that_does_not_crop_resizes_both_sides(self):
        larger = _with_image_size(SiglipImageProcessor(size={"height": 32, "width": 32}), 64)
        assert dict(larger.size) == {"height": 64, "width": 64}

    @pytest.mark.parametrize("image_size", [32, 64])
    def test_an_image_processor_of_square_pictures_resizes_the_shortest_edge(self, image_size):
        processor = AutoImageProcessor.from_pretrained(demo.MODEL_PATH, backend="pil", do_center_crop=False)
        assert dict(_with_image_size(processor, image_size).size) == {"shortest_edge": image_size}

    def test_the_image_processor_follows_a_size_that_is_set_later(self):
        classifier = MuDPTClassifier(CLIPModel.from_pretrained(demo.MODEL_PATH).eval(), NAMES, "{}.")
        assert classifier.image_processor is classifier.with_classes(NAMES[:2]).image_processor
        set_image_size(classifier.model, 48)
        assert dict(classifier.image_processor.crop_size) == {"height": 48, "width": 48}
