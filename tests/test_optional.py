"""What a part of this package needs, and what an error says about it."""

import re
from pathlib import Path

import pytest

import peft_mudpt
from peft_mudpt.optional import require
from tests.test_versions import PROJECT


def test_every_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(ImportError) as error:
        require("A report", "report", "no_such_one", "torch", "no_such_other")
    assert str(error.value) == 'A report needs no_such_one, no_such_other: pip install "peft_mudpt[report]"'


def test_errors_name_extras_that_exist():
    code = "".join(file.read_text(encoding="utf-8") for file in Path(peft_mudpt.__file__).parent.rglob("*.py"))
    named = re.findall(r"""(?:require\(.+?, |install\(|peft_mudpt\[)["']?(\w+)["'\]]""", code)
    assert {"report", "detection", "heic", "robust"} <= {*named} <= {*PROJECT["optional-dependencies"]}
