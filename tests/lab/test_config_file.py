"""Flags from a file."""

import json

import pytest

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.flags import make_parser, parse_flags
from peft_mudpt.lab.sweep_options import SweepOptions, parse_sweep


def parsed(tmp_path, content: str, *typed: str, suffix=".yaml", kind=Arguments):
    file = tmp_path / f"flags{suffix}"
    file.write_text(content, encoding="utf-8")
    return parse_flags(kind, ["--config", str(file), *typed])


def test_a_yaml_file_gives_the_flags_that_are_typed(tmp_path):
    content = "shots: 4\nlearning_rate: 1e-3\nwith_tracking: yes\ntemplate: 'a {}: big'\n# all else is as usual\n"
    typed = ["--shots", "4", "--learning_rate", "1e-3", "--with_tracking", "--template", "a {}: big"]
    assert parsed(tmp_path, content) == parse_flags(Arguments, typed)


def test_a_json_file_gives_the_flags_that_are_typed(tmp_path):
    content = json.dumps(
        {"shots": 4, "learning_rate": 1e-5, "with_tracking": True, "method_kwargs": {"fusion": "none"}}
    )
    options = parsed(tmp_path, content, suffix=".json")
    assert (options.shots, options.learning_rate, options.with_tracking) == (4, 1e-5, True)
    assert json.loads(options.method_kwargs) == {"fusion": "none"}


@pytest.mark.parametrize("name", ["007", "no", "1e3", "1:30", "0x10", "2026-11-29"])
def test_a_text_stays_what_it_is_though_yaml_knows_another_value_for_it(tmp_path, name):
    assert parsed(tmp_path, f"output_dir: {name}\n").output_dir == name


def test_a_mapping_has_the_types_of_yaml(tmp_path):
    options = parsed(tmp_path, "method_kwargs:\n  depth: 3\n  names: ['no']\n")
    assert json.loads(options.method_kwargs) == {"depth": 3, "names": ["no"]}


def test_the_command_line_wins_over_the_file(tmp_path):
    options = parsed(tmp_path, "shots: 4\nseed: 2\nwith_tracking: true\n", "--shots", "8", "--with_tracking", "no")
    assert (options.shots, options.seed, options.with_tracking) == (8, 2, False)


def test_null_stands_for_a_flag_that_is_not_given(tmp_path):
    assert parsed(tmp_path, "train_dir: null\noptimizer: ~\ntest_dir:\n") == Arguments()
    with pytest.raises(ValueError, match="shots no value.*default is 16"):
        parsed(tmp_path, "shots: null\n")


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("shot: 4", ".yaml", r"'shot', which is no flag. Did you mean 'shots'"),
        ("zzz: 4", ".yaml", r"'zzz', which is no flag. --help"),
        ("methods: coop", ".yml", "'methods', which is no flag. Did you mean 'method'"),
        ("shots: 4\nseed: 1\nshots: 8", ".yaml", "'shots' twice"),
        ('{"shots": 4, "shots": 8}', ".json", "'shots' twice"),
        ("shots: 0", ".yaml", "--shots=0 is not at least 1"),
        ("- shots", ".yaml", "must hold lines"),
        ("[4]", ".json", "no object"),
        ("", ".yaml", "must hold lines"),
        ("a: [", ".yaml", "is not YAML"),
        ("a: !!python/name:os.system x", ".yaml", "'a', which is no flag"),
        ("method_kwargs: {a: !!python/name:os.system x}", ".yaml", "is not YAML"),
        ("{", ".json", "is not JSON"),
        ("shots=4", ".txt", r"must end in .json, .yaml, .yml"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path, content, suffix, message):
    with pytest.raises(ValueError, match=message):
        parsed(tmp_path, content, suffix=suffix)


def test_a_value_of_the_wrong_type_is_refused_as_if_it_was_typed(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(tmp_path, "shots: many")
    assert end.value.code == 2 and "--shots: invalid int value: 'many'" in capsys.readouterr().err


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="--config nowhere.yaml cannot be read"):
        parse_flags(Arguments, ["--config", "nowhere.yaml"])


def test_a_sweep_takes_its_own_flags_and_those_of_its_runs_from_one_file(tmp_path, monkeypatch):
    (tmp_path / "flags.yaml").write_text(
        "protocol: few-shot\nmethods: [coop, mudpt]\nseeds: [1, 2]\nshots: 1\nlearning_rate_factors: 1\n"
        "max_train_steps: 3\n"
    )
    monkeypatch.setattr("sys.argv", ["sweep.py", "--config", str(tmp_path / "flags.yaml"), "--seeds", "5"])
    sweep, _ = parse_sweep(make_parser(SweepOptions))
    runs = [run.arguments() for run in sweep.runs({})]
    assert {(run.method, run.seed, run.shots, run.max_train_steps) for run in runs} == {
        ("coop", 5, 1, 3),
        ("mudpt", 5, 1, 3),
    }
