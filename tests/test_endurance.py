"""That an adapted CLIP survives real use: threads, many switches, long runs, interruptions, copies."""

import copy
import gc
import os
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo
from tests.classifier.conftest import NAMES
from tests.classifier.conftest import adapted as adapted_demo
from tests.conftest import BOS, EOS, build_clip, checkpoint_layers, hooks_on, logits, logits_and_gradients
from tests.towers.test_towers import adapted, assert_same


pytestmark = pytest.mark.slow
PREDICTIONS = int(os.environ.get("PREDICTIONS", 20))  # of each thread


@pytest.fixture
def model(clip):
    return adapted(clip)


@pytest.fixture
def classifier():
    return MuDPTClassifier(adapted_demo(), NAMES, "{}.", AutoTokenizer.from_pretrained(demo.MODEL_PATH))


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def other_config() -> MuDPTConfig:
    """Of an adapter of another shape."""
    return MuDPTConfig.from_preset("maple", num_virtual_tokens=2, prompt_depth=2, init_std=0.5)


def at_once(*jobs, times=200) -> list[list]:
    """What each job returns each time, all running at once in threads of their own."""
    start = Barrier(len(jobs))

    @torch.no_grad()
    def repeated(job):
        start.wait()
        return [job() for _ in range(times)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(repeated, jobs))


def assert_as_alone(*jobs):
    alone = [at_once(job, times=1)[0][0] for job in jobs]
    for expected, results in zip(alone, at_once(*jobs)):
        assert all(torch.equal(result, expected) for result in results)


class TestThreads:
    @pytest.fixture(autouse=True)
    def many_turns(self):
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(interval)

    def test_on_one_model_with_the_same_inputs(self, model, inputs):
        assert_as_alone(*[lambda: model(**inputs).logits_per_image] * 2)

    def test_on_one_model_with_inputs_of_different_shape(self, model, inputs):
        other = {
            "input_ids": torch.tensor([[BOS, 9, 8, 7, 6, 5, EOS]]),
            "pixel_values": torch.randn(1, 3, 32, 32),
            "interpolate_pos_encoding": True,
        }
        assert_as_alone(*(lambda given=given: model(**given).logits_per_image for given in (inputs, other)))

    def test_on_one_model_in_different_towers(self, model, inputs):
        assert_as_alone(
            lambda: model.get_text_features(inputs["input_ids"]).pooler_output,
            lambda: model.get_image_features(inputs["pixel_values"]).pooler_output,
        )

    def test_on_two_models_with_different_adapters(self, model, inputs):
        other = get_peft_model(build_clip(), other_config()).eval()
        assert_as_alone(*(lambda m=m: m(**inputs).logits_per_image for m in (model, other)))

    def test_that_train_two_models(self, model):
        other = get_peft_model(build_clip(), other_config())
        for trained, use_reentrant in ((model, True), (other, False)):
            checkpoint_layers(trained.train(), use_reentrant)
        jobs = [torch.enable_grad()(lambda m=m: logits_and_gradients(m)) for m in (model, other)]
        alone = [job() for job in jobs]
        for expected, results in zip(alone, at_once(*jobs, times=20)):
            for result in results:
                assert_same(result, expected, atol=0)

    def test_that_share_a_classifier(self, classifier, images):
        def fresh():  # one thread encodes the classes while the other may take what is known
            classifier.forget()
            return classifier.predict_proba(images)

        assert_as_alone(fresh, lambda: classifier.predict_proba(images[:1]))


@pytest.mark.parametrize("pause", [0.01, 0])
def test_threads_may_predict_while_another_switches(classifier, images, pause):
    """Each answer is that of one of the adapters or of none, during the switching and after it."""
    model = classifier.model
    model.add_adapter("other", MuDPTConfig(init_std=0.5))
    expected = {}
    for name in ("other", "default"):
        model.set_adapter(name)
        expected[name] = classifier.predict_proba(images)
    with model.disable_adapter():
        expected["none"] = classifier.predict_proba(images)
    assert len({str(answer) for answer in expected.values()}) == 3
    done = Event()

    def switch():
        while not done.is_set():
            with model.disable_adapter():
                model.set_adapter("other")
            model.set_adapter("default")
            done.wait(pause)

    def predict(_) -> list[bool]:
        answers = [classifier.predict_proba(images) for _ in range(PREDICTIONS)]
        return [any(torch.equal(answer, right) for right in expected.values()) for answer in answers]

    with ThreadPoolExecutor(9) as pool:
        switching = pool.submit(switch)
        try:
            found = list(pool.map(predict, range(8)))
        finally:
            done.set()
        switching.result()
    assert found == [[True] * PREDICTIONS] * 8
    for name in ("default", "other"):
        model.set_adapter(name)
        assert torch.equal(classifier.predict_proba(images), expected[name])


class TestTwoHundredSwitches:
    def test_each_output_is_that_of_its_adapter(self, model, inputs):
        model.add_adapter("other", other_config())
        model.set_adapter("other")
        expected = {"other": logits(model, inputs)}
        model.set_adapter("default")
        expected["default"] = logits(model, inputs)
        for _ in range(100):
            for name in ("other", "default"):
                model.set_adapter(name)
                assert torch.equal(logits(model, inputs), expected[name])

    @torch.no_grad()
    def test_a_classifier_follows_each(self, classifier, images):
        model = classifier.model
        model.add_adapter("other", other_config())
        expected = {}
        for name in ("default", "other"):
            model.set_adapter(name)
            classifier.forget()
            expected[name] = classifier(images).logits
        assert not torch.allclose(expected["default"], expected["other"], atol=1e-2)
        for _ in range(100):
            for name in ("default", "other"):
                model.set_adapter(name)
                assert torch.equal(classifier(images).logits, expected[name])


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class TestMemoryIsFlat:
    @torch.no_grad()
    def test_over_three_hundred_forwards(self, model, inputs):
        for times in (1, 300):
            for _ in range(times):
                model(**inputs)
            if times == 1:
                tensors, things = live_tensors(), len(gc.get_objects())
        assert live_tensors() == tensors
        assert len(gc.get_objects()) < things + 150  # one a forward would be three hundred

    @torch.no_grad()
    def test_over_three_hundred_predictions(self, classifier, images):
        for times in (1, 300):
            for _ in range(times):
                classifier.predict(images[:1])
            if times == 1:
                tensors, things = live_tensors(), len(gc.get_objects())
        assert live_tensors() == tensors
        assert len(gc.get_objects()) < things + 150  # one a prediction would be three hundred

    def test_over_training_steps_nothing_of_a_graph_is_kept(self, model):
        class Saved:
            def __init__(self, tensor):
                self.tensor = tensor

        saved = weakref.WeakSet()

        def pack(tensor):
            saved.add(kept := Saved(tensor))
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            for _ in range(10):
                logits_and_gradients(model)
                assert not saved
        assert not saved

    def test_over_a_hundred_adapters_that_come_and_go(self, model, inputs):
        expected, hooks, names = logits(model, inputs), hooks_on(model), [name for name, _ in model.named_modules()]
        deleted, tensors = weakref.WeakSet(), live_tensors()
        for _ in range(100):
            model.add_adapter("guest", other_config())
            deleted.add(model.prompt_learner.mudpt_adapters["guest"])
            model.set_adapter("guest")
            logits(model, inputs)
            model.set_adapter("default")
            model.delete_adapter("guest")
        assert live_tensors() == tensors and not deleted
        assert hooks_on(model) == hooks and [name for name, _ in model.named_modules()] == names
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.usefixtures("adapters_of_transformers")
    def test_over_a_hundred_adapters_without_a_lasting_one(self, clip, inputs):
        expected, hooks = logits(clip, inputs), hooks_on(clip)
        deleted, tensors = weakref.WeakSet(), live_tensors()
        for _ in range(100):
            clip.add_adapter(other_config())
            deleted.add(clip.prompt_learner.mudpt_adapters["default"])
            logits(clip, inputs)
            clip.delete_adapter("default")
            assert hooks_on(clip) == hooks
        assert live_tensors() == tensors and not deleted
        assert torch.equal(logits(clip, inputs), expected)

    @torch.no_grad()
    def test_over_a_hundred_adapters_that_a_classifier_has_known(self, classifier, images):
        model, expected = classifier.model, classifier(images).logits
        deleted = weakref.WeakSet()
        for visit in range(101):
            model.add_adapter("guest", other_config())
            deleted.add(model.prompt_learner.mudpt_adapters["guest"])
            model.set_adapter("guest")
            classifier(images)
            model.set_adapter("default")
            model.delete_adapter("guest")
            assert torch.equal(classifier(images).logits, expected)
            if visit == 0:  # from then on the classes are laid out for the guest's number of tokens, too
                tensors = live_tensors()
        assert live_tensors() == tensors and not deleted


class Interrupted(BaseException):
    """Like KeyboardInterrupt, no Exception."""


def interrupt(*args):
    raise Interrupted


class TestAfterAnInterruption:
    @pytest.mark.parametrize("tower", ["text_model", "vision_model"])
    def test_between_two_layers_of_another_adapter(self, model, inputs, tower):
        expected = logits(model, inputs)
        model.add_adapter("other", other_config())
        model.set_adapter("other")
        with (
            getattr(model, tower).encoder.layers[1].register_forward_hook(interrupt),
            pytest.raises(Interrupted),
        ):
            model(**inputs)
        model.set_adapter("default")
        assert torch.equal(logits(model, inputs), expected)

    @pytest.mark.parametrize("use_reentrant", [None, True, False])
    def test_in_backward(self, model, inputs, use_reentrant):
        if use_reentrant is not None:
            checkpoint_layers(model.train(), use_reentrant)
        expected = logits_and_gradients(model)
        with (
            model.text_model.encoder.layers[1].mlp.register_full_backward_hook(interrupt),
            pytest.raises(Interrupted),
        ):
            logits_and_gradients(model)
        assert_same(logits_and_gradients(model), expected, atol=0)

    @pytest.mark.parametrize("grad", [False, True])
    def test_of_a_classifier_while_it_encodes(self, classifier, images, grad):
        with torch.set_grad_enabled(grad):
            expected = classifier(images).logits
            classifier.forget()
            with (
                classifier.model.text_model.encoder.layers[1].register_forward_hook(interrupt),
                pytest.raises(Interrupted),
            ):
                classifier(images)
            assert torch.equal(classifier(images).logits, expected)


def train_a_step(model: torch.nn.Module, loss) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss().backward()
    optimizer.step()


COPIES = pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])


class TestNeighbours:
    @COPIES
    def test_a_copy_that_is_trained_on_leaves_the_original_alone(self, model, inputs, copied):
        expected = logits_and_gradients(model)
        twin = copied(model)
        train_a_step(twin, lambda: twin(**inputs).logits_per_image.square().mean())
        assert not torch.equal(logits(twin, inputs), logits(model, inputs))
        assert_same(logits_and_gradients(model), expected, atol=0)

    @COPIES
    def test_a_copied_classifier_that_is_trained_on_leaves_the_original_alone(self, classifier, images, copied):
        expected = classifier.predict_proba(images)
        twin = copied(classifier)
        train_a_step(twin, lambda: twin(images, torch.tensor([0, 1])).loss)
        assert not torch.equal(twin.predict_proba(images), expected)
        assert torch.equal(classifier.predict_proba(images), expected)

    def test_a_model_that_is_trained_leaves_another_alone(self, model, inputs):
        other = get_peft_model(build_clip(), other_config()).eval()
        expected = logits_and_gradients(other)
        train_a_step(model, lambda: model(**inputs).logits_per_image.square().mean())
        assert_same(logits_and_gradients(other), expected, atol=0)
