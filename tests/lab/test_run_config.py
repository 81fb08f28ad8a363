"""The flags of a finished run as a file."""

from dataclasses import replace
from pathlib import Path

import pytest

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.detection.arguments import DetectionArguments
from peft_mudpt.lab.flags import parse_flags
from peft_mudpt.lab.run_config import config_of_run, write_config
from peft_mudpt.lab.schema import read_result


EARLIER = Path(__file__).parents[1] / "earlier"


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("method", ["lora", "maple"])
def test_the_file_of_a_run_asks_for_the_same_run(tmp_path, method, suffix):
    file = tmp_path / f"flags{suffix}"
    write_config(config_of_run(EARLIER / method), file)
    again = parse_flags(Arguments, ["--config", str(file)]).experiment().asked
    recorded = read_result(EARLIER / method)["arguments"]
    assert {name: again[name] for name in recorded if name not in ("train_dir", "test_dir")} == {
        name: value for name, value in recorded.items() if name not in ("train_dir", "test_dir")
    }


def test_the_file_of_a_run_replaces_no_other(tmp_path):
    (tmp_path / "flags.yaml").write_text("mine")
    with pytest.raises(ValueError, match="flags.yaml exists"):
        write_config({"shots": 4}, tmp_path / "flags.yaml")
    assert (tmp_path / "flags.yaml").read_text() == "mine"


def test_a_folder_without_a_run_has_no_flags(tmp_path):
    with pytest.raises(ValueError, match="neither run.json nor result.json"):
        config_of_run(tmp_path)


def test_every_flag_can_stand_in_a_file(tmp_path):
    for kind in (Arguments, DetectionArguments):
        options = replace(kind(), output_dir="elsewhere")
        write_config(vars(options), tmp_path / f"{kind.__name__}.json")
        assert parse_flags(kind, ["--config", str(tmp_path / f"{kind.__name__}.json")]) == options
