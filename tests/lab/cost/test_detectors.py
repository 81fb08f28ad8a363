"""The benchmark of detectors: what each way trains, how far its backward pass goes, and the tables."""

import json

import pytest
import torch

from peft_mudpt.detection.loss import per_picture_loss
from peft_mudpt.lab.cost.cases import INFERENCE, PLAIN, TASKS, TRAINING
from peft_mudpt.lab.cost.detectors import (
    FROZEN,
    FULL,
    LORA,
    RANK,
    SDPT,
    TOKENS,
    WAYS_OF,
    DetectorCase,
    build_detector,
    caption,
    way_to_run,
)
from peft_mudpt.lab.cost.running import run
from peft_mudpt.lab.cost.tables import markdown
from peft_mudpt.lab.detection.methods import FUSION_PROJECTIONS
from peft_mudpt.sdpt.families import find_fusion


CASE = DetectorCase("tiny", TRAINING, classes=3, batch_size=2, picture_size=48)


@pytest.fixture(scope="module")
def trained():
    """For each way: the logits of a training step, the names of the weights it changed, and the model."""
    found = {}
    for way in WAYS_OF[TRAINING]:
        model = build_detector("tiny", way, "cpu")
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        logits = way_to_run(way, CASE, model)()
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        found[way] = logits, changed, model
    return found


def test_all_ways_compute_the_same_logits_in_training_but_for_the_prompts(trained):
    logits = {way: each for way, (each, *_) in trained.items()}
    assert logits[FROZEN].shape == (2, 10, 256)
    torch.testing.assert_close(logits[LORA], logits[FROZEN], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[FULL], logits[FROZEN], rtol=0, atol=1e-4)
    assert not torch.allclose(logits[SDPT], logits[FROZEN], rtol=0, atol=1e-4)


def test_each_way_trains_what_its_name_says(trained):
    changed = {way: names for way, (_, names, _) in trained.items()}
    assert changed[FROZEN] == set()
    assert [name.rpartition(".")[2] for name in changed[SDPT]] == ["prototypes"]
    assert {name.partition(".attn.")[2].split(".lora")[0] for name in changed[LORA]} == {*FUSION_PROJECTIONS}
    assert any("backbone" in name for name in changed[FULL]) and any("bbox_embed" in name for name in changed[FULL])
    sizes = {
        way: sum(p.numel() for p in model.parameters() if p.requires_grad) for way, (*_, model) in trained.items()
    }
    assert sizes[SDPT] == 2 * TOKENS * 256 and sizes[LORA] == 2 * 6 * RANK * (64 + 256) and sizes[FROZEN] == 0
    assert sizes[FULL] == sum(p.numel() for p in trained[FROZEN][2].parameters())


def test_the_backward_pass_of_the_frozen_way_ends_where_the_first_prompts_enter(trained):
    model = trained[FROZEN][2]
    streams = []
    _, fusion = find_fusion(model)
    before, attention = fusion.layers[0].fusion_layer, fusion.attentions[0]
    handles = [
        before.register_forward_pre_hook(
            lambda module, args, kwargs: streams.extend((kwargs["vision_features"], kwargs["text_features"])),
            with_kwargs=True,
        ),
        attention.register_forward_pre_hook(lambda module, args: streams.extend(args)),
    ]
    way_to_run(FROZEN, CASE, model)()
    for handle in handles:
        handle.remove()
    assert [stream.requires_grad for stream in streams] == [False, False, True, True]
    assert all(stream.grad.any() for stream in streams[2:])


def test_the_loss_is_that_of_the_detection_lab():
    assert build_detector("tiny", LORA, "cpu").get_base_model().loss_function is per_picture_loss


def test_prompts_change_what_a_detector_computes_in_inference():
    case = DetectorCase("tiny", INFERENCE, 3, 2, 48)
    prompted, plain = (step() for step in case.steps((SDPT, PLAIN), "cpu").values())
    assert prompted.shape == plain.shape and not torch.equal(prompted, plain)


def test_a_caption_has_a_phrase_for_each_class():
    ids = caption(7)
    assert ids[0] == 101 and ids[-2:] == [1012, 102] and ids.count(1012) == 7
    assert not {0, 101, 102, 1012, 1029} & {*ids[1:-1]} - {1012}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"detectors": ["huge"]}, "detector 'huge'.* tiny, grounding_dino_tiny"),
        ({"classes": [100]}, "100 classes has .* at most 256"),
        ({"memory_classes": [100]}, "100 classes has .* at most 256"),
        ({"picture_size": 8}, "8 x 13 pixels has 5 tokens.*selects 10 .* picture_size than 8"),
        ({"picture_size": 0}, "at least 1; found 0"),
    ],
)
def test_what_a_detector_cannot_take_is_refused_before_anything_is_measured(wrong, said):
    asked = {"detectors": ["tiny"], "classes": [3], "memory_classes": [], "batch_sizes": [1], "picture_size": 48}
    with pytest.raises(ValueError, match=said):
        run(models=[], tasks=TASKS, **{**asked, **wrong}, say=lambda line: pytest.fail("something was measured"))


def test_the_command_prints_a_table_for_each_task_and_for_the_memory(
    run_script, tmp_path, monkeypatch, in_this_process
):
    bytes_of = {SDPT: 500, FROZEN: 400, LORA: 600, FULL: 1000}
    monkeypatch.setattr("peft_mudpt.lab.cost.rows.peak_of", lambda case, way, device: bytes_of[way])
    flags = (
        "--models none --detectors tiny --classes 3 --memory_classes 3 --batch_sizes 1 --picture_size 32 --seconds 0"
    )
    ran = run_script("benchmark.py", *flags.split(), "--json", tmp_path / "numbers.json")
    assert "| detector | picture | batch | classes | sdpt : frozen | lora : frozen | full : frozen |" in ran.stdout
    assert "| detector | picture | batch | classes | sdpt : plain |" in ran.stdout
    assert "| tiny | 32 x 53 | 1 | 3 | 0.50 | 0.60 | 0.40 |" in ran.stdout and ran.stdout.count("| tiny |") == 3
    assert "padded" not in ran.stdout
    numbers = json.loads((tmp_path / "numbers.json").read_text())["detector_times"]
    assert [(case["task"], set(case["seconds"])) for case in numbers] == [(t, {*WAYS_OF[t]}) for t in TASKS]


def test_the_tables_hold_the_ratios_of_the_turns():
    case = {"model": "tiny", "picture_shape": (48, 80), "batch_size": 1, "classes": 3, "task": INFERENCE, "notes": []}
    measured = {"device": "cpu", "threads": 2, "precision": "float32", "torch": "2"}
    nothing = dict.fromkeys(("times", "memory", "banks", "detector_memory", "lab"), [])
    times = [{**case, "seconds": {SDPT: [1.0, 2.2, 9.0], PLAIN: [1.0, 2.0, 3.0]}}]
    assert "| tiny | 48 x 80 | 1 | 3 | 1.10 (1.00–3.00) |" in markdown(
        {**measured, **nothing, "detector_times": times}
    )
