"""Federations in this process, and what they are compared with."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from peft_mudpt import MuDPTClassifier, demo
from peft_mudpt.federated.arrays import number_of_bytes
from peft_mudpt.federated.domains import domain_of, sent_arrays
from peft_mudpt.federated.server import CHECKPOINT
from peft_mudpt.lab.federated.running import RESULT, run
from peft_mudpt.lab.federated.settings import bench_of, client_of
from tests.lab.federated.conftest import CLASSES, STYLES


def saved(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("method", ["fed_dpt", "coop", "mudpt", "lora"])
def test_a_federation_learns_and_leaves_an_adapter_that_loads(arguments, tmp_path, method, capsys):
    result = run(arguments(method=method))
    assert result == json.loads((tmp_path / "out" / RESULT).read_text())
    assert list(result["accuracy"]) == list(STYLES)
    assert [each["number"] for each in result["rounds"]] == [0, 1, 2]
    assert result["rounds"][2]["trained"] == [0, 1, 2] and not result["rounds"][2]["left_out"]
    assert f"{method}, federated" in capsys.readouterr().out
    if method != "lora":
        classifier = MuDPTClassifier.from_pretrained(tmp_path / "out")
        assert classifier.class_names == sorted(CLASSES)


def test_the_saved_adapter_is_the_last_of_the_server(arguments, tmp_path):
    run(arguments())
    state = load_file(tmp_path / "out" / CHECKPOINT)
    for name, tensor in saved(tmp_path / "out").items():
        assert torch.equal(tensor, state[f"latest/{name}"])


def test_a_client_changes_only_its_context_and_what_all_share(arguments):
    given = arguments()
    client = client_of(given, 1)
    before = client.bench.initial
    after, metrics = client.train(before, 1)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {domain_of(name) for name in changed} == {None, 1}
    assert changed == set(sent_arrays(before, 1))
    assert metrics["loss"] > 0


def test_what_a_client_learns_depends_on_the_arrays_and_the_round_alone(arguments):
    client = client_of(arguments(), 0)
    start = client.bench.initial
    first, _ = client.train(start, 2)
    client.train({name: tensor + 0.1 for name, tensor in start.items()}, 1)
    again, _ = client.train(start, 2)
    other, _ = client.train(start, 1)
    assert all(torch.equal(first[name], again[name]) for name in start)
    assert not all(torch.equal(first[name], other[name]) for name in start)


def test_megabytes_are_those_of_contexts_and_visual_prompts(arguments):
    given = arguments()
    result = run(given)
    arrays = bench_of(given, tuple(sorted(CLASSES))).initial
    down, up = number_of_bytes(arrays), number_of_bytes(sent_arrays(arrays, 0))
    assert result["megabytes"] == pytest.approx(2 * 3 * (down + up) / 1e6)


def test_a_stopped_federation_goes_on_and_ends_with_the_same_bits(arguments, tmp_path, monkeypatch):
    run(arguments(num_rounds=3, output_dir=str(tmp_path / "whole")))
    train, rounds = type(client_of(arguments(num_rounds=3), 0)).train, []

    def stop(self, arrays, server_round):
        rounds.append(server_round)
        if server_round == 3:
            raise KeyboardInterrupt
        return train(self, arrays, server_round)

    monkeypatch.setattr("peft_mudpt.lab.federated.client.FewShotClient.train", stop)
    with pytest.raises(KeyboardInterrupt):
        run(arguments(num_rounds=3))
    assert not (tmp_path / "out" / RESULT).exists()
    monkeypatch.setattr("peft_mudpt.lab.federated.client.FewShotClient.train", train)
    run(arguments(num_rounds=3))
    assert all(torch.equal(t, saved(tmp_path / "whole")[name]) for name, t in saved(tmp_path / "out").items())


def test_the_state_of_a_run_with_other_flags_is_refused(arguments, tmp_path):
    run(arguments())
    (tmp_path / "out" / RESULT).unlink()  # as if it had been stopped
    with pytest.raises(ValueError, match="local_steps was 2"):
        run(arguments(local_steps=3))


def test_a_client_that_fails_is_left_out_and_named(arguments, tmp_path, monkeypatch, capsys):
    train = type(client_of(arguments(), 0)).train

    def fail(self, arrays, server_round):
        if self.number == 1:
            raise OSError("disk full")
        return train(self, arrays, server_round)

    monkeypatch.setattr("peft_mudpt.lab.federated.client.FewShotClient.train", fail)
    result = run(arguments(method="coop"))
    assert result["rounds"][1]["left_out"] == {"1": "it reported an error: OSError: disk full"}
    assert "left out" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["local", "centralized"])
def test_training_without_a_server_sends_nothing(arguments, tmp_path, setting):
    result = run(arguments(method="coop", setting=setting))
    assert result["megabytes"] == 0 and list(result["accuracy"]) == list(STYLES)
    assert result["rounds"][-1]["loss"] > 0
    # each local client has an adapter of its own, of which none is the result
    assert (tmp_path / "out" / "adapter_config.json").exists() == (setting == "centralized")


def test_centralized_training_on_one_client_learns_what_a_federation_of_one_does(arguments, tmp_path):
    given = dict(method="coop", domains=STYLES[0])
    run(arguments(**given))
    run(arguments(**given, setting="centralized", output_dir=str(tmp_path / "alone")))
    ours, alone = saved(tmp_path / "out"), saved(tmp_path / "alone")
    assert all(torch.equal(tensor, alone[name]) for name, tensor in ours.items())


def test_a_finished_run_is_returned_and_another_refused(arguments, tmp_path, capsys):
    first = run(arguments(method="coop"))
    assert run(arguments(method="coop")) == json.loads(json.dumps(first))
    assert "already done" in capsys.readouterr().out
    with pytest.raises(ValueError, match="another run .seed: 1 there, 2 here"):
        run(arguments(method="coop", seed=2))
    run(arguments(method="coop", seed=2, overwrite_output_dir=True))


def test_another_clip_in_the_same_folder_is_another_run(arguments, tmp_path):
    clip = shutil.copytree(demo.MODEL_PATH, tmp_path / "clip")
    given = dict(method="coop", model_name_or_path=str(clip))
    run(arguments(**given))
    with open(clip / "tokenizer_config.json", "a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"files of --model_name_or_path: 1 replaced \(tokenizer_config.json\)"):
        run(arguments(**given))
    (tmp_path / "out" / RESULT).unlink()  # as if it had been stopped
    with pytest.raises(ValueError, match="model_files"):
        run(arguments(**given))


def test_a_folder_with_another_adapter_is_refused(arguments, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="which no federation has written"):
        run(arguments())
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "{}"


@pytest.mark.parametrize("setting", ["federated", "local"])
def test_domains_with_other_classes_are_refused(arguments, domains_dir, tmp_path, setting):
    root = tmp_path / "domains"
    shutil.copytree(domains_dir, root)
    shutil.rmtree(root / "plain" / "hollow_blue_heart")
    with pytest.raises(ValueError, match="other classes"):
        run(arguments(domains_dir=str(root), setting=setting))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": STYLES[0]}, "learns a context per domain"),
        ({"method": "zero_shot"}, "leaves no adapter"),
        ({"method": "linear_probe"}, "leaves no adapter"),
        ({"method": "promptsrc"}, "trains by more than a loss"),
        ({"aggregation": "krum", "num_malicious": 1, "method": "coop"}, "needs at least 5 clients"),
        ({"noise_multiplier": 1.0, "method": "coop"}, "Give clip_norm"),
        ({"template": "no place"}, "--template"),
        ({"setting": "local", "clip_norm": 1.0, "method": "coop"}, "--clip_norm are for the server"),
        ({"context_momentum": 0.5, "method": "coop"}, "--method coop has none"),
        ({"method_kwargs": "{"}, "is not JSON"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, fields, message):
    with pytest.raises(ValueError, match=message):
        arguments(**fields)


def test_the_adapter_remembers_its_domains(arguments, tmp_path):
    run(arguments())
    config = PeftModel.from_pretrained(
        client_of(arguments(), 0).bench.backbone.load_clip(), tmp_path / "out"
    ).peft_config
    assert (config["default"].num_domains, config["default"].domain_names) == (3, list(STYLES))
