"""`peft-mudpt demo`. What it starts is tested in tests/lab/web_demo/."""

import sys

import pytest

from peft_mudpt.lab.terminal import USER_ERROR


@pytest.fixture
def started(monkeypatch):
    """What the command starts: (what is loaded, host, port, share) of a page."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    from peft_mudpt.lab.web_demo import demo, page

    calls = []
    monkeypatch.setattr(demo.Demo, "load", lambda *loading: loading)
    monkeypatch.setattr(page, "launch", lambda *given: calls.append(given))
    return calls


def test_an_adapter_is_enough_for_a_page_on_this_machine(run_command, started):
    assert run_command("demo", "outputs/mine").code == 0
    assert started == [(("outputs/mine", None, None, None), None, None, False)]


def test_flags_choose_classes_texts_clip_and_address(run_command, started):
    loading = ["--classes", 'cat,"dog, wild"', "--template", "a {}.", "--model_name_or_path", "user/clip"]
    address = ["--host", "0.0.0.0", "--port", "8000", "--share"]
    assert run_command("demo", "user/adapter", *loading, *address).code == 0
    assert started == [(("user/adapter", ["cat", "dog, wild"], "a {}.", "user/clip"), "0.0.0.0", 8000, True)]


def test_without_gradio_the_error_names_the_extra(run_command, monkeypatch):
    # another test may have imported it
    monkeypatch.delitem(sys.modules, "peft_mudpt.lab.web_demo.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run_command("demo", "outputs/mine")
    assert done.code == USER_ERROR and done.stdout == ""
    assert done.stderr.startswith("peft-mudpt demo: error: ") and "pip install 'peft_mudpt[demo]'" in done.stderr
