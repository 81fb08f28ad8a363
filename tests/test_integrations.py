"""An adapted CLIP in the hands of others: Trainer, several processes, accelerate, and torch's own wrappers."""

from dataclasses import fields
from functools import partial

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator, cpu_offload, disk_offload, dispatch_model
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, grad, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from transformers import AutoTokenizer, Trainer, TrainingArguments

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from peft_mudpt.lab.training.checkpoints import trainable_tensors
from peft_mudpt.towers.base import part
from peft_mudpt.towers.registry import find_towers
from tests import two_processes
from tests.classifier.conftest import NAMES
from tests.classifier.conftest import adapted as adapted_demo
from tests.conftest import BOS, EOS, build_clip, build_inputs, in_two_processes, logits, logits_and_gradients
from tests.lab.training.test_loop import assert_equal
from tests.test_endurance import other_config
from tests.towers.test_families import FAMILIES
from tests.towers.test_towers import adapted, assert_same


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def classifier_of(model) -> MuDPTClassifier:
    return MuDPTClassifier(model, NAMES, "{}.", AutoTokenizer.from_pretrained(demo.MODEL_PATH))


def random_images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def pairs() -> dict:
    """A model and its data, for CLIP's own loss over the texts and images of a batch."""
    texts = [torch.tensor([BOS, 1 + i, 20 + i, EOS]) for i in range(8)]
    rows = [{"input_ids": text, "pixel_values": image} for text, image in zip(texts, random_images(8, 16))]

    def collate(rows):
        return {**torch.utils.data.default_collate(rows), "return_loss": True}

    return {"model": adapted(build_clip()), "train_dataset": rows, "eval_dataset": rows[:4], "data_collator": collate}


def classes() -> dict:
    """A classifier and its data, for its own loss."""
    rows = [{"pixel_values": image, "labels": i % 3} for i, image in enumerate(random_images(8, 32))]
    return {"model": classifier_of(adapted_demo()), "train_dataset": rows, "eval_dataset": rows[:4]}


def trainer(folder, parts: dict, **fields) -> Trainer:
    fields = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "learning_rate": 0.01, **fields}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "remove_unused_columns": False}
    return Trainer(args=TrainingArguments(str(folder), per_device_train_batch_size=4, **quiet, **fields), **parts)


class TestTrainer:
    @pytest.mark.parametrize("parts", [pairs, classes])
    def test_going_on_from_a_checkpoint_ends_in_the_same_weights_bit_for_bit(self, parts, tmp_path):
        whole, resumed = trainer(tmp_path, parts()), trainer(tmp_path, parts())
        whole.train()
        with torch.no_grad():
            for parameter in trainable_tensors(resumed.model).values():
                parameter.zero_()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert [log["step"] for log in resumed.state.log_history if "loss" in log] == [1, 2, 3, 4]
        assert_equal(trainable_tensors(whole.model), trainable_tensors(resumed.model))

    def test_a_checkpoint_is_an_adapter_and_holds_nothing_of_clip(self, inputs, tmp_path):
        ours = trainer(tmp_path, pairs())
        ours.train()
        saved = tmp_path / "checkpoint-4"
        learned = load_file(saved / "adapter_model.safetensors")
        assert sum(w.numel() for w in learned.values()) == ours.model.get_nb_trainable_parameters()[0]
        assert [file.name for file in saved.glob("*.safetensors")] == ["adapter_model.safetensors"]
        loaded = PeftModel.from_pretrained(build_clip(), saved)
        assert torch.equal(logits(loaded, inputs), logits(ours.model, inputs))

    @pytest.mark.parametrize("parts", [pairs, classes])
    def test_the_best_model_is_loaded_at_the_end(self, parts, tmp_path):
        every_step = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
        # the highest loss counts as the best, which is not the last
        best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
        ours = trainer(tmp_path, parts(), **every_step, **best, learning_rate=0.01)
        ours.train()
        losses = [log["eval_loss"] for log in ours.state.log_history if "eval_loss" in log]
        assert ours.evaluate()["eval_loss"] == max(losses) > losses[-1]

    def test_predictions_of_a_classifier_are_its_logits(self, tmp_path):
        ours = trainer(tmp_path, classes())
        rows = ours.eval_dataset
        predicted = torch.from_numpy(ours.predict(rows).predictions)
        with torch.no_grad():
            expected = ours.model(torch.stack([row["pixel_values"] for row in rows])).logits
        torch.testing.assert_close(predicted, expected)

    @pytest.mark.parametrize("parts", [pairs, classes])
    @pytest.mark.parametrize("options", [{"use_reentrant": True}, {"use_reentrant": False}], ids=str)
    def test_gradient_checkpointing_gives_the_same_losses(self, options, parts, tmp_path):
        plain = trainer(tmp_path, parts())
        known = {field.name for field in fields(TrainingArguments)}
        flag = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        ours = trainer(tmp_path, parts(), **{flag: True, f"{flag}_kwargs": options})
        losses = []
        for each in (plain, ours):
            each.train()
            losses.append([log["loss"] for log in each.state.log_history if "loss" in log])
        clip = getattr(ours.model, "model", ours.model)
        assert clip.text_model.encoder.layers[0].gradient_checkpointing
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)

    @pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
    def test_checkpointing_of_a_classifier_is_that_of_its_model(self, name):
        classifier = classifier_of(adapted_demo())
        layers = [*classifier.model.text_model.encoder.layers, *classifier.model.vision_model.encoder.layers]
        for method, expected in ((f"{name}_enable", True), (f"{name}_disable", False)):
            getattr(classifier, method)()
            assert {layer.gradient_checkpointing for layer in layers} == {expected}


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What two processes have left behind."""
    folder = tmp_path_factory.mktemp("two_processes")
    in_two_processes(two_processes.main, folder)
    return folder


class TestTwoProcesses:
    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_each_has_the_gradients_of_the_whole_batch(self, left, checkpointing):
        model = two_processes.learner(checkpointing=False)
        two_processes.loss(model, slice(4)).backward()
        expected = {name: p.grad for name, p in trainable_tensors(model).items()}
        for rank in range(2):
            gradients = torch.load(left / f"gradients_{rank}_{checkpointing}.pt")
            torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)

    def test_what_the_first_saves_is_what_both_have_learned(self, left):
        loaded = trainable_tensors(PeftModel.from_pretrained(build_clip(), left / "adapter", is_trainable=True))
        for rank in range(2):
            assert_equal(torch.load(left / f"learned_{rank}.pt"), loaded)


def to_cpu(model, folder):
    return cpu_offload(model, torch.device("cpu"))


def to_disk(model, folder):
    return disk_offload(model, folder, torch.device("cpu"))


def text_to_disk(model, folder):
    """As by a `device_map`."""
    (tower,) = (name for name, module in model.named_modules() if module is model.text_model)
    return dispatch_model(model, {"": "cpu", tower: "disk"}, main_device="cpu", offload_dir=folder)


class TestOffloading:
    @pytest.mark.parametrize("offload", [to_cpu, to_disk, text_to_disk])
    def test_an_adapted_model_computes_the_same(self, inputs, tmp_path, offload):
        expected = logits(adapted(build_clip()), inputs)
        model = offload(adapted(build_clip()), tmp_path)
        assert model.text_model.encoder.layers[0].mlp.fc1.weight.is_meta
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.parametrize("offload", [to_cpu, to_disk, text_to_disk])
    def test_an_adapter_is_trained_on_an_offloaded_model(self, tmp_path, offload):
        model = adapted(offload(build_clip(), tmp_path))
        assert model.text_model.encoder.layers[0].mlp.fc1.weight.is_meta
        assert_same(logits_and_gradients(model), logits_and_gradients(adapted(build_clip())), atol=0)

    @pytest.mark.parametrize("offload", [to_disk, text_to_disk])  # to_cpu: with the words of an adapter
    def test_a_saved_adapter_loads_onto_an_offloaded_model(self, inputs, tmp_path, offload):
        model = adapted(build_clip())
        model.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(offload(build_clip(), tmp_path / "clip"), tmp_path / "adapter")
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))

    @torch.no_grad()
    def test_a_classifier_follows_a_model_whose_text_tower_is_offloaded(self, tmp_path):
        images, models = random_images(2, 32), [adapted_demo(), text_to_disk(adapted_demo(), tmp_path)]
        for model in models:
            torch.manual_seed(0)
            model.add_adapter("other", other_config())
        whole, offloaded = map(classifier_of, models)
        for name in ("default", "other", "default"):
            for model in models:
                model.set_adapter(name)
            whole.forget()
            assert torch.equal(offloaded(images).logits, whole(images).logits)

    def test_a_classifier_refuses_a_model_that_is_offloaded_whole(self, tmp_path):
        with pytest.raises(ValueError, match="has offloaded weights"):
            classifier_of(to_cpu(adapted_demo(), tmp_path))


def partitioned(model):
    """Leave the weights empty as DeepSpeed's ZeRO-3 does; the token table alone is whole while its module runs."""
    whole = {parameter: parameter.data for parameter in model.parameters()}
    for parameter in whole:
        parameter.data = parameter.new_empty(0)
    _, tower, kind = find_towers(model)["text"]
    table = part(tower, f"{kind.embeddings}.{kind.token_embedding}")

    def fill(*_):
        table.weight.data = whole[table.weight]

    def empty(*_):
        table.weight.data = table.weight.new_empty(0)

    hooks = table.register_forward_pre_hook(fill), table.register_forward_hook(empty)

    def restore():
        for hook in hooks:
            hook.remove()
        for parameter, data in whole.items():
            parameter.data = data

    return restore


class TestSharding:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_an_adapter_is_made_on_a_base_whose_weights_are_partitioned(self, family):
        words = dict(text_prompt_init_text="a b", text_prompt_init_ids={"a b": [5, 6]})
        expected, model = adapted(FAMILIES[family](), **words), FAMILIES[family]()
        restore = partitioned(model)
        model = adapted(model, **words)
        restore()
        assert_equal(trainable_tensors(model), trainable_tensors(expected))

    @pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")  # CLIP and Linear return views
    @pytest.mark.parametrize("preset", ["coop", "maple", "mudpt", "cocoop", "tcp"])  # all kinds of parameters
    def test_an_adapter_that_is_an_fsdp_unit_of_its_own_has_the_same_gradients(self, preset):
        expected = logits_and_gradients(prompted(preset))
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            mesh, model = init_device_mesh("cpu", (1,)), prompted(preset)
            fully_shard(model.prompt_learner.mudpt_adapters["default"], mesh=mesh)
            fully_shard(model, mesh=mesh, ignored_params={model.logit_scale})  # it takes no scalars
            logits, gradients = logits_and_gradients(model)
            assert_same((logits, {name: grad.full_tensor() for name, grad in gradients.items()}), expected)
        finally:
            dist.destroy_process_group()


def prompted(preset):
    torch.manual_seed(1)
    return get_peft_model(build_clip(), MuDPTConfig.from_preset(preset, init_std=0.5)).train()


class TestAccelerator:
    def test_a_saved_state_goes_on_as_before(self, inputs, tmp_path):
        accelerator = Accelerator(cpu=True)
        model = adapted(build_clip())
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(trainable_tensors(model).values(), lr=0.1))

        def train(steps: int) -> list[float]:
            losses = []
            for _ in range(steps):
                loss = model(**inputs).logits_per_image.square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            return losses

        train(1)
        accelerator.save_state(str(tmp_path))
        losses = train(3)
        accelerator.load_state(str(tmp_path))
        assert train(3) == losses and len(set(losses)) == 3


class TestTorch:
    def test_a_moving_average_is_that_of_the_adapters(self, inputs):
        model = adapted(build_clip())
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        average.update_parameters(model)
        middle = adapted(build_clip())
        with torch.no_grad():
            for name, parameter in trainable_tensors(model).items():
                middle.get_parameter(name).mul_(2)  # halfway from one to three
                parameter.mul_(3)
        average.update_parameters(model)
        torch.testing.assert_close(logits(average, inputs), logits(middle, inputs), atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_an_averaged_classifier_never_takes_old_classes_for_new(self):
        images, classifier = random_images(2, 32), classifier_of(adapted_demo())
        average = AveragedModel(classifier, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        average.update_parameters(classifier)
        average(images)
        for parameter in trainable_tensors(classifier).values():
            parameter.zero_()
        average.update_parameters(classifier)
        known = average(images).logits
        average.module.forget()
        assert torch.equal(average(images).logits, known)

    @torch.no_grad()
    def test_a_functional_call_takes_other_parameters(self, inputs):
        model, other = adapted(build_clip()), adapted(build_clip(), init_std=0.1)
        outputs = functional_call(model, trainable_tensors(other), (), inputs)
        assert torch.equal(outputs.logits_per_image, logits(other, inputs))
        assert torch.equal(logits(model, inputs), logits(adapted(build_clip()), inputs))

    def test_functional_gradients_are_those_of_backward(self):
        model = adapted(build_clip())
        computed, expected = logits_and_gradients(model)

        def functional_loss(parameters):
            logits = functional_call(model, parameters, (), build_inputs()).logits_per_image
            return logits.softmax(dim=-1)[:, 0].log().mean()

        assert_same((computed, grad(functional_loss)(trainable_tensors(model))), (computed, expected))

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore:.*batching rule:UserWarning")  # torch batches attention by a loop
    def test_many_adapters_run_at_once_under_vmap(self, inputs):
        models = [adapted(build_clip(), init_std=std) for std in (0.1, 0.5)]
        tensors = [trainable_tensors(model) for model in models]
        stacked = {name: torch.stack([each[name] for each in tensors]) for name in tensors[0]}
        both = vmap(lambda parameters: functional_call(models[0], parameters, (), inputs).logits_per_image)(stacked)
        for mine, model in zip(both, models):
            torch.testing.assert_close(mine, logits(model, inputs), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_checkpointed_as_a_whole_it_has_the_same_gradients(self, inputs, use_reentrant):
        model = adapted(build_clip())
        images = inputs.pop("pixel_values").requires_grad_()  # the reentrant kind wants an input with a gradient

        def run(images):
            return model(**inputs, pixel_values=images).logits_per_image

        gradients = []
        for forward in (run, partial(checkpoint, run, use_reentrant=use_reentrant)):
            model.zero_grad()
            forward(images).square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in trainable_tensors(model).items()})
        assert_equal(*gradients)
