"""`peft-mudpt completion`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from peft_mudpt_cli.command import COMMANDS, load


@pytest.fixture(scope="module")
def completions(tmp_path_factory):
    """The file for bash."""
    import shtab

    from peft_mudpt_cli.completion import _all_flags

    file = tmp_path_factory.mktemp("completion") / "peft-mudpt"
    file.write_text(shtab.complete(_all_flags(), "bash"))
    return file


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["peft-mudpt", ""], set(COMMANDS)),
        (["peft-mudpt", "train", "--train_d"], {"--train_dir"}),
        (["peft-mudpt", "compare", "--dry_r"], {"--dry_run"}),
        (["peft-mudpt", "predict", "--min_c"], {"--min_confidence"}),
        (["peft-mudpt", "train", "my_pic"], {"my_pictures"}),
        (["peft-mudpt", "train", "--templates", "my_t"], {"my_texts.txt"}),
        (["peft-mudpt", "train", "--coop_root", "my_"], {"my_pictures"}),
        (["peft-mudpt", "evaluate", "outputs", "my_pictures", "--output", "my_t"], {"my_texts.txt"}),
        (["peft-mudpt", "completion", "ba"], {"bash"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bash_completes(completions, tmp_path, words, expected):
    (tmp_path / "my_pictures").mkdir()
    (tmp_path / "my_texts.txt").touch()
    asked = f"""
        source {completions}
        COMP_WORDS=({" ".join(repr(word) for word in words)}) COMP_CWORD={len(words) - 1}
        _shtab_peft_mudpt
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([shutil.which("bash"), "-c", asked], cwd=tmp_path, capture_output=True, text=True)
    assert set(done.stdout.split()) >= expected, done.stderr
    assert len(words[-1]) == 0 or set(done.stdout.split()) == expected


def test_the_command_prints_the_file(run_command, completions):
    done = run_command("completion", "bash")
    assert done.code == 0 and done.stdout == completions.read_text() + "\n"


def test_every_flag_that_takes_a_path_is_completed():
    from peft_mudpt_cli.completion import FILES, FOLDERS

    for name in COMMANDS:
        for action in load(name).make_parser()._actions:
            if action.type is Path or (action.type is str and action.dest.endswith(("_dir", "_root"))):
                assert action.metavar in (*FOLDERS, *FILES), f"{name} {action.dest}"
