"""The README says what is so."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_prints_what_its_comments_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = "\n".join(
        block for block in blocks if "save_pretrained" in block
    )  # the second goes on where the first ends
    expected = re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert expected and printed.getvalue().splitlines() == expected
    for written in ("my-adapter/adapter_model.safetensors", "my-folded-adapter/adapter_model.safetensors"):
        assert (tmp_path / "outputs" / written).exists()
    assert (tmp_path / "outputs" / "classifier.pt2").exists()


def test_the_table_of_presets_is_what_its_command_prints():
    command = [sys.executable, str(ROOT / "examples" / "presets.py")]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table in README


def test_every_script_it_names_exists():
    named = set(re.findall(r"examples/\w+\.py", README))
    assert named and all((ROOT / script).exists() for script in named)
