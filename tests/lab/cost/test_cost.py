"""The benchmark: its cases, its measurements and its tables."""

import json
import re
from itertools import product

import pytest
import torch

from peft_mudpt.lab.cost.banks import ways_to_build
from peft_mudpt.lab.cost.cases import (
    ATTACK,
    ATTACKED,
    INFERENCE,
    KNOWN,
    OURS,
    PADDED,
    PLAIN,
    TASKS,
    TRAINING,
    WAYS,
    Case,
    build_model,
    way_to_run,
)
from peft_mudpt.lab.cost.limits import Stopped
from peft_mudpt.lab.cost.measuring import seconds_in_turns
from peft_mudpt.lab.cost.running import run
from peft_mudpt.lab.cost.tables import markdown
from peft_mudpt.robust import PGD
from peft_mudpt.towers.family import Family
from tests.lab.cost.conftest import call


ROWS = "peft_mudpt.lab.cost.rows"


@pytest.mark.parametrize(("task", "adapter"), [*product(TASKS, ["mudpt"]), *product([INFERENCE], ["cocoop", "tcp"])])
def test_ours_computes_the_same_logits_as_the_padded_way(task, adapter):
    outputs = []
    for way in (PADDED, OURS):
        model = build_model("tiny", way, "cpu", adapter)
        torch.manual_seed(0)
        outputs.append(way_to_run(way, Case("tiny", task, 12, 3, adapter=adapter), model)())
    assert outputs[0].shape == (3, 12)
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("adapter", "knows"), [("coop", True), ("cocoop", True), ("mudpt", False)])
def test_known_image_features_give_the_same_logits_without_the_image_tower(adapter, knows):
    case, model, outputs = Case("tiny", TRAINING, 5, 3, adapter=adapter), build_model("tiny", OURS, "cpu", adapter), []
    assert case.knows_images is knows
    for way in (OURS, KNOWN) if knows else ():
        torch.manual_seed(0)
        step = way_to_run(way, case, model)
        if way == KNOWN:
            model.vision_model.register_forward_pre_hook(lambda *args: pytest.fail("an image was encoded"))
        outputs.append(step())
    torch.testing.assert_close(*outputs or (0, 0), atol=1e-4, rtol=1e-4)


def test_a_step_on_attacked_pictures_attacks_them_first(monkeypatch):
    case, model, attacked = (
        Case("tiny", TRAINING, 5, 3, adapter="advpt"),
        build_model("tiny", OURS, "cpu", "advpt"),
        [],
    )
    assert case.attacks_images and not Case("tiny", TRAINING, 5, 3, adapter="coop").attacks_images
    original = PGD.__call__
    monkeypatch.setattr(PGD, "__call__", lambda *args: attacked.append(original(*args)) or attacked[-1])
    logits = way_to_run(ATTACKED, case, model)()
    assert logits.shape == (3, 5) and [pixels.shape for pixels in attacked] == [(3, 3, 32, 32)]


def test_plain_clip_runs_without_prompts_and_texts():
    model = build_model("tiny", PLAIN, "cpu")
    tokens = []
    model.text_model.embeddings.register_forward_pre_hook(lambda *args: pytest.fail("a text was encoded"))
    model.vision_model.encoder.layers[-1].register_forward_hook(lambda layer, args, _: tokens.append(args[0].shape[1]))
    way_to_run(PLAIN, Case("tiny", INFERENCE, 12, 3), model)()
    assert tokens == [1 + (32 // 8) ** 2]


def test_the_ways_take_turns_until_each_has_had_its_time():
    order = []
    times = seconds_in_turns({way: lambda way=way: order.append(way) for way in "ab"}, seconds_per_way=0)
    assert order == list("ab" * 4)  # one warm-up, three measurements
    assert {way: len(t) for way, t in times.items()} == {"a": 3, "b": 3}


def row(classes, padded=None, **fields):
    seconds = {OURS: [1.0, 2.0, 3.0], PLAIN: [0.5, 0.5, 0.5], **({PADDED: padded} if padded else {})}
    case = {"model": "tiny", "adapter": "mudpt", "task": TRAINING, "batch_size": 4, "classes": classes}
    return {**case, "seconds": seconds, "left_out": {}, "extrapolated": {}, "notes": [], **fields}


def result_of(**measured):
    machine = {"device": "cpu", "threads": 2, "precision": "float32", "torch": "2"}
    nothing = dict.fromkeys(("times", "memory", "banks", "detector_times", "detector_memory", "lab"), [])
    return {**machine, **nothing, **measured}


def test_the_table_holds_the_median_and_the_spread_of_turns():
    rows = [row(10, [8.0, 8.0, 30.0]), row(1000, extrapolated={PADDED: 50.0})]
    text = markdown(result_of(times=rows))
    assert "on 2 CPU cores, float32" in text
    assert "| tiny | 4 | 10 | **8.00** (4.00–10.00) | 4.00 (2.00–6.00) | 16.0 |" in text
    assert "| tiny | 4 | 1,000 | **25.0** * | 4.00 (2.00–6.00) | 100.0 * |" in text
    assert "* padded did not fit" in text and "known" not in text
    assert "From 10 to 1,000 classes (tiny, batch 4): padded 6.25 times, ours 1.00 times, plain 1.00 times." in text


def test_known_image_features_have_a_column_of_their_own():
    known = row(10, [8.0, 8.0, 30.0])
    known["seconds"][KNOWN] = [0.1, 0.5, 0.1]
    text = markdown(result_of(times=[known, row(20, [8.0, 8.0, 30.0])]))
    assert "**known**: " in text and "| padded : plain | ours : known |\n|---|---|---|---|---|---|---|\n" in text
    assert "| 16.0 | **10.0** (4.00–30.00) |" in text and "| 16.0 | – |" in text


def test_a_bank_is_compared_with_the_passes_of_its_attack(monkeypatch):
    passes = []
    encode = Family.image_features
    monkeypatch.setattr(Family, "image_features", lambda *args: passes.append(1) or encode(*args))
    for way, build in ways_to_build("tiny", 3, "cpu").items():
        passes.clear()
        build()
        # three more: the embeddings before and after the attack, and that by which the bank knows its image tower
        assert len(passes) == ATTACK.steps + 3 * (way == OURS)


def test_banks_have_a_table_of_their_own(in_this_process):
    result = run(["tiny"], [], [], [], [], bank_pictures=[2], seconds_per_way=0, say=lambda line: None)
    text = markdown(result)
    assert re.search(r"\n\| tiny \| 2 \| \d[\d.]+ \([\d.–]+\) \|\n$", text)
    assert "padded" not in text and "with random weights. Each cell" in text


@pytest.fixture
def of_20_gb(monkeypatch, in_this_process):
    """A machine with 20 GB, where the way "padded" needs 1 GB for each class, and the others need little."""
    monkeypatch.setattr(f"{ROWS}.usable_bytes", lambda device: 20 * 10**9)
    monkeypatch.setattr(f"{ROWS}.needed_bytes", lambda case, way, *_: case.classes * 10**9 if way == PADDED else 10)
    monkeypatch.setattr(f"{ROWS}.peak_of", lambda case, way, device: 1000 * case.classes if way == PADDED else 10)


def test_a_way_that_does_not_fit_into_memory_is_left_out_and_extrapolated(of_20_gb):
    result = run(["tiny"], [TRAINING], [2, 4, 30], [2, 4, 30], [1], seconds_per_way=0, say=lambda line: None)
    *_, last = result["memory"]
    assert last["bytes"] == {OURS: 10, PLAIN: 10} and last["extrapolated"] == {PADDED: 30_000}
    *_, last = result["times"]
    assert set(last["seconds"]) == {OURS, PLAIN} and set(last["extrapolated"]) == {PADDED}
    assert last["left_out"] == {PADDED: 30 * 10**9}
    text = markdown(result)
    assert text.count("- tiny, batch 1, 30 classes: padded needs about 30.0 GB, but only 20.0 GB can be used") == 2


def test_a_way_that_cannot_be_extrapolated_has_its_estimate_in_the_table(of_20_gb):
    text = markdown(run(["tiny"], [TRAINING], [2, 30], [], [1], seconds_per_way=0, say=lambda line: None))
    assert re.search(r"\| tiny \| 1 \| 30 \| needs 30.0 GB \| \d.* \| needs 30.0 GB \|", text)


def test_a_case_of_which_nothing_fits_starts_no_process(monkeypatch):
    monkeypatch.setattr(f"{ROWS}.usable_bytes", lambda device: 1000)
    monkeypatch.setattr(f"{ROWS}.in_child", lambda *_: pytest.fail("a process was started"))
    text = markdown(run(["tiny"], TASKS, [2], [2], [1], bank_pictures=[3], say=lambda line: None))
    assert text.count("can be used") == 3 * len(WAYS) + 1 and "From" not in text and "per class" not in text


def test_a_process_that_ends_without_an_answer_costs_its_row_only(monkeypatch):
    def in_child(function, arguments, limits, environment=None):
        if arguments["case"].classes == 4:
            raise Stopped("was killed by SIGKILL")
        return call(function, arguments, limits)

    monkeypatch.setattr(f"{ROWS}.in_child", in_child)
    monkeypatch.setattr(f"{ROWS}.peak_of", lambda case, way, device: 123)
    result = run(["tiny"], [TRAINING], [2, 4, 6], [2, 4], [1], seconds_per_way=0, say=lambda line: None)
    assert [set(row["seconds"]) for row in result["times"]] == [{*WAYS}, set(), {*WAYS}]
    text = markdown(result)
    assert "\n- tiny, batch 1, 4 classes: the process of padded, ours, plain was killed by SIGKILL\n" in text
    assert "\n- tiny, batch 1, 4 classes: the process of ours was killed by SIGKILL\n" in text
    assert "| tiny | 1 | 4 | – | – | – |" in text and "From 2 to 6 classes" in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"models": ["huge"]}, "model 'huge'.* tiny, vit_b16"),
        ({"adapters": ["mudp"]}, "adapter 'mudp'.*cocoop"),
        ({"tasks": ["dreaming"]}, "task 'dreaming'"),
        ({"classes": [0]}, "at least 1; found 0"),
        ({"minutes_per_row": 0}, "minutes_per_row=0 must be more"),
    ],
)
def test_an_unknown_model_an_unknown_task_and_no_classes_are_refused(wrong, said):
    asked = {"models": ["tiny"], "tasks": ["inference"], "classes": [2], "memory_classes": [], "batch_sizes": [1]}
    with pytest.raises(ValueError, match=said):
        run(**{**asked, **wrong})


def test_the_command_prints_tables_and_writes_measurements_and_a_plot(
    run_script, tmp_path, monkeypatch, in_this_process
):
    monkeypatch.setattr(f"{ROWS}.peak_of", lambda case, way, device: 123 * case.classes)
    flags = "--models tiny --adapters coop --classes 3,6 --memory_classes 3 --batch_sizes 2 --seconds 0"
    files = ["--json", tmp_path / "numbers.json", "--picture", tmp_path / "picture.png"]
    ran = run_script("benchmark.py", *flags.split(), *files)
    assert ran.stdout.count("| tiny, coop | 2 | 3 |") == 3 and ran.stdout.count("| tiny, coop | 2 | 6 |") == 2
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert {len(turns) for case in numbers["times"] for turns in case["seconds"].values()} == {3}
    assert {case["task"] for case in numbers["times"] if KNOWN in case["seconds"]} == {TRAINING}
    assert numbers["memory"][0]["bytes"] == dict.fromkeys((*WAYS, KNOWN), 369)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
