"""The notebook runs from the first cell to the last, and its stored outputs are those of its cells."""

import json
import re

from tests.conftest import reset_accelerator
from tests.test_docs import ROOT


NOTEBOOK = ROOT / "examples" / "adapt_my_pictures.ipynb"


def test_the_notebook_runs_and_prints_what_is_stored_in_it(tmp_path, monkeypatch, capsys):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    install, *sources = ["".join(cell["source"]) for cell in cells]
    assert install == '%pip install -q "peft_mudpt[examples]"'  # which only a notebook can run
    assert sum("max_train_steps=300" in source for source in sources) == 1
    monkeypatch.chdir(tmp_path)
    names, printed = {}, []
    for source in sources:
        exec(compile(source.replace("max_train_steps=300", "max_train_steps=2"), NOTEBOOK.name, "exec"), names)
        printed.append(capsys.readouterr().out)
    reset_accelerator()
    stored = ["".join(text for out in cell["outputs"] for text in out.get("text", ())) for cell in cells[1:]]
    assert [bool(text) for text in printed] == [bool(text) for text in stored]
    words = [re.sub(r"[\d.,]+ %", "", text[4]).splitlines() for text in (printed, stored)]
    assert words[0] == words[1] and words[0][-1] == "trained parameters: 176,832"
    assert all("176,832" in text[-1] for text in (printed, stored))  # PEFT chooses the other words
    assert names["model"].peft_config["default"].peft_type == "MUDPT"
