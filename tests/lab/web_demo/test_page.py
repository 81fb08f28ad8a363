"""
The page of the demo in a real browser without a window. The command serves it in a process of its own: Gradio leaves
event loops open, and tries a hundred ports for 5 seconds each if its server ends in a warning that is an error here.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from peft_mudpt.lab.terminal import USER_ERROR
from peft_mudpt.lab.web_demo.spotlight import SIZE
from tests.browser import PHONE, WIDE, opened, started_browser
from tests.lab.web_demo.conftest import CLASSES


if find_spec("gradio") is None:
    pytest.skip("gradio is not installed: pip install '.[demo]'", allow_module_level=True)

ENOUGH = 120  # seconds to import torch and Gradio on a busy machine; a server that does not answer fails the test
PICTURES = "pictures"  # the folder of pictures, which the server deletes when it ends
COMMAND = [sys.executable, "-m", "peft_mudpt", "demo"]
# Answers that take seconds, in which torch computes
LONG_ANSWERS = """
import sys, time, torch
from peft_mudpt.lab.web_demo.demo import Demo
from peft_mudpt.lab.web_demo.page import launch

class Slow(Demo):
    def _for(self, *asked):
        print("computes", flush=True)
        numbers, end = torch.ones(300, 300), time.monotonic() + 8
        while time.monotonic() < end:
            numbers = torch.softmax(numbers @ numbers, dim=-1)
        print("has answered", flush=True)
        return super()._for(*asked)

launch(Slow.load(sys.argv[1]))
"""
ADDRESS = re.compile(r"^(http://\S+)", re.MULTILINE)
HOSTILE = ["<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "[a](javascript:alert(3)) **b** $c$", "&lt;d"]


def heed_ctrl_c():
    """Undo what a shell does to commands in the background: they, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def serving(folder, *command):
    """Start a command as a user does, yield the address that it prints, and end it by Ctrl-C."""
    log, pictures = folder / "log", folder / PICTURES
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(pictures)}
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, preexec_fn=heed_ctrl_c
        )
    try:
        end = time.monotonic() + ENOUGH
        while not (found := ADDRESS.search(log.read_text())):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the page was not served:\n{log.read_text()}")
            time.sleep(0.1)
        yield found[1]
        server.send_signal(signal.SIGINT)
        assert server.wait(ENOUGH) == 0, log.read_text()
        assert [file for file in pictures.rglob("*") if file.is_file()] == []
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser, adapter, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served"), *COMMAND, adapter) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        page.set_default_timeout(20_000)
        yield page


def upload(page, file):
    page.set_input_files("input[type=file]", file)


def use(page, classes):
    page.get_by_role("textbox").fill("\n".join(classes))
    page.get_by_role("button", name="Use these classes").click()


def answer(page, *words):
    """The names and percentages of the bars, when the page shows these words."""
    for each in words:
        page.get_by_text(each).first.wait_for()
    names, shares = (page.locator(f"[data-testid=label] .{part}").all_inner_texts() for part in ("text", "confidence"))
    return dict(zip(names, shares))


def test_a_port_in_use_is_named_in_one_line(address, adapter):
    port = address.rstrip("/").rpartition(":")[2]
    done = subprocess.run([*COMMAND, str(adapter), "--port", port], capture_output=True, text=True, timeout=ENOUGH)
    assert done.returncode == USER_ERROR and f"this machine, port {port}. Give another" in done.stderr.splitlines()[-1]


def test_ctrl_c_waits_for_the_answer_that_is_computed(browser, adapter, star, tmp_path):
    with serving(tmp_path, sys.executable, "-c", LONG_ANSWERS, adapter) as address, opened(browser, address) as page:
        upload(page, star)
        end = time.monotonic() + ENOUGH
        while "computes" not in (tmp_path / "log").read_text() and time.monotonic() < end:
            page.wait_for_timeout(100)
    assert "has answered" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("host", ["192.0.2.1", "no host"], ids=["another machine", "none"])
def test_an_address_that_is_not_of_this_machine_is_refused_at_once(host):
    from peft_mudpt.lab.web_demo.page import launch

    with pytest.raises(OSError, match=f"{host}. Give another --host"):
        launch(None, host)


def test_an_uploaded_picture_is_classified_with_a_map_and_without_other_servers(page, address, star):
    upload(page, star)
    bars = answer(page, "the prompts (")
    assert next(iter(bars)) == CLASSES[0] and sorted(bars) == sorted(CLASSES)
    drawn = page.locator("#seen img")
    drawn.wait_for()
    assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") == SIZE
    asked = [event.removeprefix("request: ") for event in page.events if event.startswith("request: ")]
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert any(f"/{PICTURES}/" in url for url in asked)  # the folder that is empty at the end
    assert [event for event in page.events if event.startswith(("error: ", "dialog: "))] == []


def test_other_classes_give_another_answer(page, star):
    upload(page, star)
    answer(page, "the prompts (")
    use(page, ["red triangle", "", " red shape ", "filled red star with a tail"])
    assert sorted(answer(page, "red shape")) == ["filled red star with a tail", "red shape", "red triangle"]


def test_the_adapter_can_be_switched_off_and_on(page, star):
    upload(page, star)
    adapted = answer(page, "the prompts (")
    page.get_by_label("With the adapter").uncheck()
    plain = answer(page, "without its adapter")
    assert next(iter(plain)) != next(iter(adapted)) and sorted(plain) == sorted(CLASSES)
    page.get_by_label("With the adapter").check()
    assert answer(page, "the prompts (") == adapted


def test_a_broken_file_gives_a_message_without_its_path(page, star, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    upload(page, tmp_path / "broken.png")
    assert answer(page, "not a picture in a format") == {}
    assert page.get_by_text("cannot be read").inner_text().startswith("This picture cannot be read")


def test_hostile_names_are_shown_as_text_and_run_nothing(page, star):
    upload(page, star)
    answer(page, "the prompts (")
    use(page, HOSTILE)
    assert sorted(answer(page, HOSTILE[1])) == sorted(HOSTILE)
    use(page, [HOSTILE[0]] * 2)
    assert answer(page, f"{HOSTILE[0]!r} occurs more than once") == {}
    assert page.locator("img[src=x]").count() == 0
    assert [event for event in page.events if event.startswith(("error: ", "dialog: "))] == []


@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", PHONE)], ids=["wide", "phone"])
def test_the_page_fits_and_takes_the_scheme_of_the_reader(browser, address, star, scheme, viewport):
    with opened(browser, address, scheme, viewport) as page:
        upload(page, star)
        answer(page, "the prompts (")
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(float, re.findall(r"[\d.]+", background)[:3])) / 3
        assert (brightness > 200) == (scheme == "light")
