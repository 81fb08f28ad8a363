"""What PEFT promises of a saved adapter: what the file holds, under which names, and every way back."""

from itertools import product
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from peft import (
    AutoPeftModel,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPConfig, CLIPForImageClassification, CLIPModel, CLIPTextModel

from peft_mudpt import PRESETS, MuDPTConfig, demo, fold_adapter
from tests.conftest import SAME_FOR_ALL_IMAGES, another_clip, build_clip, config, logits


WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = {WEIGHTS, "adapter_config.json"}


def small(**fields) -> MuDPTConfig:
    return config(prompt_depth=1, fusion_direction="none", **fields)


def lora() -> LoraConfig:
    return LoraConfig(target_modules=["q_proj"], init_lora_weights=False)


@pytest.fixture
def saved(clip, inputs, tmp_path):
    """A folder with an adapter, and the logits of the model it comes from."""
    model = get_peft_model(clip, config())
    model.save_pretrained(tmp_path)
    return tmp_path, logits(model, inputs)


class TestStateDict:
    @pytest.mark.parametrize(("preset", "folded"), [*product(PRESETS, [False]), *product(SAME_FOR_ALL_IMAGES, [True])])
    def test_it_holds_every_tensor_of_the_adapter_and_no_other(self, clip, preset, folded):
        model = get_peft_model(clip, MuDPTConfig.from_preset(preset))
        if folded:
            fold_adapter(model)
        weights = get_peft_model_state_dict(model)
        assert len(weights) == len(model.prompt_learner.mudpt_adapters["default"].state_dict())
        assert all(".mudpt_adapters." in key for key in weights)

    def test_beside_the_adapter_it_holds_modules_to_save_and_no_other(self, clip):
        model = get_peft_model(clip, config(modules_to_save=["visual_projection"]))
        beside = {key for key in get_peft_model_state_dict(model) if "mudpt_" not in key}
        assert beside == {"base_model.model.visual_projection.weight"}

    def test_each_adapter_saves_its_own_modules_to_save(self, clip):
        model = get_peft_model(clip, small(modules_to_save=["visual_projection"]))
        model.add_adapter("other", small(modules_to_save=["visual_projection"]))
        wrapper = model.visual_projection.modules_to_save
        for name, number in (("default", 1.0), ("other", 2.0)):
            torch.nn.init.constant_(wrapper[name].weight, number)
        for name, number in (("default", 1.0), ("other", 2.0)):
            weights = get_peft_model_state_dict(model, adapter_name=name)
            assert weights["base_model.model.visual_projection.weight"].unique().tolist() == [number]

    def test_all_of_a_wrapped_model_survives_torch_save(self, inputs, tmp_path):
        def with_two_adapters(clip):
            model = get_peft_model(clip, config(modules_to_save=["visual_projection"]))
            model.add_adapter("other", config(num_virtual_tokens=2))
            return model

        model, twin = with_two_adapters(build_clip()), with_two_adapters(another_clip())
        torch.save(model.state_dict(), tmp_path / "model.pt")
        twin.load_state_dict(torch.load(tmp_path / "model.pt"))
        for name in ("default", "other"):
            model.set_adapter(name)
            twin.set_adapter(name)
            assert torch.equal(logits(twin, inputs), logits(model, inputs))

    @pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
    def test_it_returns_into_a_bare_clip(self, inputs, low_cpu_mem_usage):
        model = inject_adapter_in_model(config(), build_clip())
        fresh = inject_adapter_in_model(config(), another_clip(), low_cpu_mem_usage=low_cpu_mem_usage)
        assert {p.is_meta for name, p in fresh.named_parameters() if "mudpt_" in name} == {low_cpu_mem_usage}
        weights = get_peft_model_state_dict(model)
        result = set_peft_model_state_dict(fresh, weights, low_cpu_mem_usage=low_cpu_mem_usage)
        assert not result.unexpected_keys and not [key for key in result.missing_keys if "mudpt_" in key]
        assert torch.equal(logits(fresh, inputs), logits(model, inputs))


STRANGE_NAMES = ["été 数据", " a ", "A-1_b", "a+b*[c]|^", "{a}", "m", "mudpt_", "prompt"]


@pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")  # of names within its prefix
class TestNames:
    @pytest.mark.parametrize("name", STRANGE_NAMES)
    def test_a_strange_name_survives_saving_and_loading(self, inputs, tmp_path, name):
        model = get_peft_model(build_clip(), small(), adapter_name=name)
        expected = logits(model, inputs)
        model.add_adapter("beside", small(num_virtual_tokens=2))
        model.save_pretrained(tmp_path)
        for new_name in (name, "plain"):
            reloaded = PeftModel.from_pretrained(another_clip(), tmp_path / name, adapter_name=new_name)
            assert torch.equal(logits(reloaded, inputs), expected)

    @pytest.mark.usefixtures("adapters_of_transformers")
    @pytest.mark.parametrize("name", STRANGE_NAMES)
    def test_a_strange_name_survives_saving_and_loading_by_transformers(self, inputs, tmp_path, name):
        model = build_clip()
        model.add_adapter(small(), adapter_name=name)
        expected = logits(model, inputs)
        model.save_pretrained(tmp_path)
        fresh = another_clip()
        fresh.load_adapter(tmp_path, adapter_name=name)
        assert torch.equal(logits(fresh, inputs), expected)
        assert torch.equal(logits(PeftModel.from_pretrained(another_clip(), tmp_path), inputs), expected)

    @pytest.mark.parametrize(
        "name",
        ["..", ".", "a/b", "/a", "a\\b", "(a)", "a$", "a\nb", "a\0", "\ud800", "é" * 128, "modules_to_save"],
    )
    def test_a_name_that_would_be_lost_on_the_way_is_refused(self, clip, name):
        with pytest.raises(ValueError, match="cannot be the name of an adapter.*printable, of at most 255 bytes"):
            get_peft_model(clip, small(), adapter_name=name)
        assert not hasattr(clip, "prompt_learner")

    def test_each_adapter_gets_a_folder_and_the_default_none(self, clip, tmp_path):
        model = get_peft_model(clip, small())
        model.add_adapter("other", small())
        model.save_pretrained(tmp_path)
        assert ADAPTER_FILES < {file.name for file in tmp_path.iterdir()}
        assert {file.name for file in (tmp_path / "other").iterdir()} == ADAPTER_FILES

    def test_only_the_selected_adapters_are_saved(self, clip, tmp_path):
        model = get_peft_model(clip, small())
        model.add_adapter("other", small())
        model.save_pretrained(tmp_path, selected_adapters=["other"])
        assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")} == {
            "README.md",
            *(f"other/{name}" for name in ADAPTER_FILES),
        }
        with pytest.raises(ValueError, match="nobody"):
            model.save_pretrained(tmp_path, selected_adapters=["nobody"])


@pytest.mark.filterwarnings("ignore::UserWarning:peft[.]")  # of a model with two adapters
class TestBesideLora:
    @pytest.mark.parametrize("order", [("lora", "mudpt"), ("mudpt", "lora")])
    def test_each_saves_its_own_tensors(self, clip, order):
        configs = {"lora": lora(), "mudpt": config()}
        for name in order:
            inject_adapter_in_model(configs[name], clip, adapter_name=name)
        for name in order:
            weights = get_peft_model_state_dict(clip, adapter_name=name)
            own = [key for key, _ in clip.named_parameters() if f"{name}_" in key]
            assert len(weights) == len(own) and all(f"{name}_" in key for key in weights)

    @pytest.mark.usefixtures("adapters_of_transformers")
    @pytest.mark.parametrize("order", [("lora", "mudpt"), ("mudpt", "lora")])
    def test_both_come_back_from_their_files(self, clip, inputs, tmp_path, order):
        configs = {"lora": lora(), "mudpt": config()}
        for name in order:
            clip.add_adapter(configs[name], adapter_name=name)
        for name in order:
            clip.set_adapter(name)
            clip.save_pretrained(tmp_path / name)
        clip.set_adapter(list(order))
        fresh = another_clip()
        for name in reversed(order):
            fresh.load_adapter(tmp_path / name, adapter_name=name)
        fresh.set_adapter(list(order))
        assert torch.equal(logits(fresh, inputs), logits(clip, inputs))

    def test_the_name_of_a_lora_adapter_is_taken(self, clip):
        inject_adapter_in_model(lora(), clip)
        known = clip.peft_config["default"]
        with pytest.raises(ValueError, match="has a LORA adapter named 'default'.*another adapter_name"):
            get_peft_model(clip, config())
        assert clip.peft_config == {"default": known} and not hasattr(clip, "prompt_learner")

    def test_a_refusal_leaves_no_config_behind(self, clip):
        inject_adapter_in_model(lora(), clip)
        with pytest.raises(ValueError, match="prompt_depth"):
            inject_adapter_in_model(config(prompt_depth=9), clip, adapter_name="too_deep")
        assert list(clip.peft_config) == ["default"]


class TestLoading:
    def test_the_saved_config_is_found_by_the_base_class(self, saved):
        loaded = PeftConfig.from_pretrained(saved[0])
        assert isinstance(loaded, MuDPTConfig) and loaded.inference_mode
        assert loaded.auto_mapping == {
            "base_model_class": "CLIPModel",
            "parent_library": "transformers.models.clip.modeling_clip",
        }

    def test_auto_peft_model_gives_equal_logits(self, tmp_path):
        inputs = {"input_ids": torch.tensor([[589, 5, 590]]), "pixel_values": torch.randn(1, 3, 32, 32)}
        model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), config())
        model.save_pretrained(tmp_path)
        assert torch.equal(logits(AutoPeftModel.from_pretrained(tmp_path), inputs), logits(model, inputs))

    @pytest.mark.parametrize(
        "options", [{"torch_device": "cpu"}, {"ignore_mismatched_sizes": True}, {"revision": None}]
    )
    def test_options_of_loading_change_no_number(self, saved, inputs, options):
        folder, expected = saved
        assert torch.equal(logits(PeftModel.from_pretrained(another_clip(), folder, **options), inputs), expected)

    def test_offloading_that_only_lora_has_is_declined_in_a_warning(self, saved, inputs):
        folder, expected = saved
        with pytest.warns(UserWarning, match="(?i)offload"):
            model = PeftModel.from_pretrained(another_clip(), folder, ephemeral_gpu_offload=True)
        assert torch.equal(logits(model, inputs), expected)

    def test_a_config_that_is_passed_is_used_as_it_is(self, saved, inputs):
        folder, expected = saved
        passed = MuDPTConfig.from_pretrained(folder)
        model = PeftModel.from_pretrained(another_clip(), folder, config=passed, is_trainable=True)
        assert model.peft_config["default"] is passed and not passed.inference_mode
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.parametrize("ignore", [False, True])
    def test_prompts_of_another_size_are_refused_even_if_sizes_are_to_be_ignored(self, saved, ignore):
        passed = config(num_virtual_tokens=2)
        with pytest.raises(ValueError, match=r"text_prompts has the shape \(3, 4, 32\), expected \(3, 2, 32\)"):
            PeftModel.from_pretrained(another_clip(), saved[0], config=passed, ignore_mismatched_sizes=ignore)

    def test_a_head_of_another_size_is_an_error_or_named_in_a_warning(self, clip, tmp_path):
        def classifier(num_labels):
            return CLIPForImageClassification(CLIPConfig(**{**clip.config.to_dict(), "num_labels": num_labels}))

        only_vision = config(text_prompt_depth=0, fusion_direction="none", modules_to_save=["classifier"])
        get_peft_model(classifier(10), only_vision).save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match="classifier"):
            PeftModel.from_pretrained(classifier(5), tmp_path)
        with pytest.warns(UserWarning, match="classifier"):
            PeftModel.from_pretrained(classifier(5), tmp_path, ignore_mismatched_sizes=True)

    @pytest.mark.parametrize("wanted", ["text_model.final_layer_norm", "final_layer_norm"])
    def test_a_module_that_a_tower_by_itself_calls_otherwise_is_no_silent_loss(self, clip, tmp_path, wanted):
        get_peft_model(clip, config(modules_to_save=[wanted])).save_pretrained(tmp_path)
        with pytest.raises((ValueError, KeyError), match="final_layer_norm"):
            PeftModel.from_pretrained(CLIPTextModel(clip.config.text_config), tmp_path)

    @pytest.mark.usefixtures("adapters_of_transformers")
    def test_weights_loaded_by_transformers_outlive_a_refusal_of_others(self, saved, inputs):
        folder, expected = saved
        clip = another_clip()
        clip.load_adapter(str(folder))
        with pytest.raises(ValueError, match="is missing"):
            set_peft_model_state_dict(clip, {})
        assert torch.equal(logits(clip, inputs), expected)

    def test_an_error_names_a_few_of_many_faults(self, saved):
        model = get_peft_model(another_clip(), config())
        with pytest.raises(ValueError, match=r"is missing; .*, and \d+ more\.") as refusal:
            set_peft_model_state_dict(model, {})
        assert len(str(refusal.value)) < 1000

    def test_buffers_of_a_module_that_is_trained_come_back_with_it(self, clip, tmp_path):
        def normed():
            model = another_clip()
            model.visual_projection = nn.Sequential(nn.BatchNorm1d(48), model.visual_projection)
            return model

        model = get_peft_model(normed(), config(modules_to_save=["visual_projection"])).train()
        model.get_image_features(torch.randn(3, 3, 16, 16))
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(normed(), tmp_path)
        counts = [m.num_batches_tracked.item() for m in again.modules() if isinstance(m, nn.BatchNorm1d)]
        assert sorted(counts) == [0, 1]

    def test_the_file_of_another_method_is_reported_as_missing_keys(self, saved):
        with pytest.warns(UserWarning, match="lora_A"):
            PeftModel.from_pretrained(another_clip(), saved[0], config=lora())

    def test_a_subfolder_is_found(self, saved, inputs):
        folder, expected = saved
        model = PeftModel.from_pretrained(another_clip(), folder.parent, subfolder=folder.name)
        model.load_adapter(folder.parent, "again", subfolder=folder.name)
        for name in ("default", "again"):
            model.set_adapter(name)
            assert torch.equal(logits(model, inputs), expected)

    def test_the_older_file_format_gives_equal_logits(self, clip, inputs, tmp_path):
        model = get_peft_model(clip, config())
        model.save_pretrained(tmp_path, safe_serialization=False)
        assert not (tmp_path / WEIGHTS).exists()
        reloaded = PeftModel.from_pretrained(another_clip(), tmp_path)
        assert torch.equal(logits(reloaded, inputs), logits(model, inputs))

    def test_a_state_dict_that_is_passed_is_saved(self, clip, tmp_path):
        model = get_peft_model(clip, config())
        zeros = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
        model.save_pretrained(tmp_path, state_dict=zeros)
        weights = load_file(tmp_path / WEIGHTS)
        assert set(weights) == set(get_peft_model_state_dict(model)) and not any(map(torch.any, weights.values()))


class TestResizedEmbeddings:
    @pytest.mark.parametrize("wrapped_first", [False, True])
    def test_old_words_keep_their_features_and_no_embedding_is_saved(self, inputs, tmp_path, wrapped_first):
        expected = logits(get_peft_model(build_clip(), config()), inputs)
        clip = build_clip()
        if wrapped_first:
            model = get_peft_model(clip, config())
        with torch.random.fork_rng():
            clip.text_model.resize_token_embeddings(120, mean_resizing=False)
        if not wrapped_first:
            model = get_peft_model(clip, config())
        assert torch.equal(logits(model, inputs), expected)
        new_word = torch.tensor([[97, 119, 98]])
        assert model.get_text_features(new_word).pooler_output.isfinite().all()
        model.save_pretrained(tmp_path)
        assert all("mudpt_" in key for key in load_file(tmp_path / WEIGHTS))


class TestHub:
    def test_pushing_uploads_the_adapter_alone(self, clip, monkeypatch):
        uploaded = {}

        def create_commit(self, repo_id, operations, **kwargs):
            uploaded.update(
                {operation.path_in_repo: Path(operation.path_or_fileobj).stat() for operation in operations}
            )

        def no_card(*args, **kwargs):
            raise EntryNotFoundError("a new repository")

        monkeypatch.setattr(
            HfApi, "create_repo", lambda self, repo_id, **kwargs: type("Url", (), {"repo_id": repo_id})
        )
        monkeypatch.setattr(HfApi, "create_commit", create_commit)
        monkeypatch.setattr(ModelCard, "load", no_card)
        model = get_peft_model(clip, small())
        model.add_adapter("other", small())
        model.push_to_hub("somebody/prompts")
        assert set(uploaded) == {"README.md", *ADAPTER_FILES, *(f"other/{name}" for name in ADAPTER_FILES)}
        assert max(file.st_size for file in uploaded.values()) < 10_000  # a tiny CLIP has 400,000

    def test_the_card_names_the_library_and_the_base_model(self, tmp_path):
        model = get_peft_model(CLIPModel.from_pretrained(demo.MODEL_PATH), small())
        (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
        model.save_pretrained(tmp_path)
        card = ModelCard.load(tmp_path / "README.md")
        assert card.data.library_name == "peft" and card.data.license == "mit" and "# Mine" in card.text
        assert card.data.base_model == str(demo.MODEL_PATH)
