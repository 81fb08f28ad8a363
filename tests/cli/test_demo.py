"""`peft-mudpt demo`. What it starts is tested in tests/lab/web_demo/."""

import sys
from pathlib import Path

import pytest

from peft_mudpt.lab.terminal import USER_ERROR


@pytest.fixture
def started(monkeypatch):
    """What the command starts: a page (what is loaded, host, port, share) or a Space (folder, *what is loaded)."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    from peft_mudpt.lab.web_demo import demo, page, space

    calls = []
    monkeypatch.setattr(demo.Demo, "load", lambda *loading: loading)
    monkeypatch.setattr(page, "launch", lambda *given: calls.append(given))
    monkeypatch.setattr(space, "write_space", lambda *given: calls.append(given) or given[0])
    return calls


def test_an_adapter_is_enough_for_a_page_on_this_machine(run_command, started):
    assert run_command("demo", "outputs/mine").code == 0
    assert started == [(("outputs/mine", None, None, None), None, None, False)]


def test_flags_choose_classes_texts_clip_and_address(run_command, started):
    loading = ["--classes", 'cat,"dog, wild"', "--template", "a {}.", "--model_name_or_path", "user/clip"]
    address = ["--host", "0.0.0.0", "--port", "8000", "--share"]
    assert run_command("demo", "user/adapter", *loading, *address).code == 0
    assert started == [(("user/adapter", ["cat", "dog, wild"], "a {}.", "user/clip"), "0.0.0.0", 8000, True)]


def test_a_space_is_written_and_the_command_that_uploads_it_is_printed(run_command, started):
    done = run_command("demo", "outputs/mine", "--space", "my space", "--classes", "cat,dog")
    assert done.code == 0 and "hf upload USER/NAME 'my space' --repo-type space" in done.stdout
    assert started == [(Path("my space"), "outputs/mine", ["cat", "dog"], None, None)]


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--port", "8000"], ["--share"]], ids=" ".join)
def test_an_address_is_refused_for_a_space(run_command, started, words):
    done = run_command("demo", "outputs/mine", "--space", "space", *words)
    assert done.code == USER_ERROR and words[0] in done.stderr and started == []


def test_without_gradio_the_error_names_the_extra(run_command, monkeypatch):
    for module in ("page", "space"):  # another test may have imported them
        monkeypatch.delitem(sys.modules, f"peft_mudpt.lab.web_demo.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run_command("demo", "outputs/mine")
    assert done.code == USER_ERROR and done.stdout == ""
    assert done.stderr == 'peft-mudpt demo: error: The demo needs gradio: pip install "peft_mudpt[demo]"\n'
