"""`peft-mudpt train`."""

import pytest

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.backbone import FOR_PHOTOGRAPHS
from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.terminal import USER_ERROR


@pytest.fixture
def asked(run_command, monkeypatch, tmp_path):
    """The arguments of the run that the command starts."""
    monkeypatch.chdir(tmp_path)
    runs = []
    monkeypatch.setattr("peft_mudpt.lab.run.run", runs.append)

    def asked(*words) -> Arguments:
        done = run_command("train", *words)
        assert done.code == 0, done.stderr
        return runs.pop()

    return asked


def test_a_folder_stands_for_a_clip_for_photographs_and_an_output_folder_of_its_name(asked):
    assert asked("some/pictures") == Arguments(
        train_dir="some/pictures", model_name_or_path=FOR_PHOTOGRAPHS, output_dir="outputs/pictures"
    )


def test_it_does_not_matter_how_the_folder_is_given(asked, tmp_path):
    (tmp_path / "flags.yaml").write_text("train_dir: some/pictures\n")
    assert asked("--train_dir", "some/pictures") == asked("--config", "flags.yaml") == asked("some/pictures")


def test_flags_before_and_after_the_folder_replace_what_it_stands_for(asked):
    found = asked("--output_dir", "mine", "pictures", "--model_name_or_path", "embedded", "--shots", 4)
    assert found == Arguments(train_dir="pictures", output_dir="mine", shots=4)


def test_without_a_folder_the_flags_are_those_of_the_script(asked, monkeypatch):
    words = ["--dataset", "noisy", "--method", "coop"]
    assert asked(*words) == parse_flags(Arguments, words)
    assert asked() == Arguments()


def test_the_last_lines_say_what_can_be_done_with_the_adapter(run_command, monkeypatch):
    monkeypatch.setattr("peft_mudpt.lab.run.run", lambda arguments: None)
    done = run_command("train", "--output_dir", "my outputs")
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert commands == [
        "peft-mudpt predict 'my outputs' PICTURE_OR_FOLDER",
        "peft-mudpt report 'my outputs' --html",
        "peft-mudpt demo 'my outputs'",
    ]


def test_two_folders_are_refused_before_anything_is_written(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_command("train", "pictures", "--train_dir", "others")
    assert done.code == USER_ERROR
    assert done.stderr.startswith("peft-mudpt train: error: ") and "pictures" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_is_named(run_command):
    done = run_command("train", "pictures", "--no_such_flag")
    assert done.code == USER_ERROR and done.stderr.startswith("peft-mudpt train: error: ")
    assert "--no_such_flag" in done.stderr
