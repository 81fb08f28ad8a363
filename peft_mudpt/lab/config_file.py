"""Reads flags from a file as if they were typed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data.text_files import read_json_object, read_text
from .similar import did_you_mean


FLAG = "--config"
JSON, YAML = (".json",), (".yaml", ".yml")


def flags_in(file: str | os.PathLike, known: Mapping[str, Any]) -> list[str]:
    """
    Read flags from a file. A value is read as if it was typed, so that 1e-3 is a number for a flag that wants one,
    and 007 and no are texts for a flag that wants a text. A list stands for values separated by commas, and a mapping
    for JSON. null stands for a flag that is not given.

    Args:
        file: a file in YAML or JSON, which maps names of flags to values.
        known: the defaults of all flags, by name.

    Returns:
        The command-line arguments, such as "--shots=4".

    Raises:
        ValueError: if the file cannot be read, names an unknown flag or one twice, or has a value that no flag can
            have.
    """
    path = Path(file)
    given = read_json_object(path, FLAG, '{"shots": 4, ...}') if is_json(path) else _read_yaml(path)
    for name in given:
        if name not in known:
            advice = did_you_mean([name], known, repr) or "--help lists the flags."
            raise ValueError(f"{FLAG} {path} holds {name!r}, which is no flag. {advice}")
    return [
        f"--{name}={_typed(name, value, known[name], path)}"
        for name, value in given.items()
        if value is not None or known[name] is not None
    ]


def is_json(path: Path) -> bool:
    """
    Tell the format of a file of flags.

    Args:
        path: the file.

    Returns:
        True for JSON, False for YAML.

    Raises:
        ValueError: if the file has the suffix of neither.
    """
    if path.suffix not in JSON + YAML:
        raise ValueError(f"{path}, a file of flags, must end in {', '.join(JSON + YAML)}.")
    return path.suffix in JSON


def _typed(name: str, value: Any, default: Any, path: Path) -> str:
    """A value in the form in which it is typed."""
    if value is None:
        raise ValueError(f"{FLAG} {path} gives {name} no value, but its default is {default!r}. Leave the line out.")
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file. A value that is neither null, a list nor a mapping is its text."""
    import yaml

    def plain(node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):  # YAML takes 007 for 7, no for False, and 1e-3 for a text
            return None if node.tag == "tag:yaml.org,2002:null" else node.value
        if isinstance(node, yaml.SequenceNode):
            return [plain(each) for each in node.value]
        return yaml.safe_load(yaml.serialize(node))

    found: dict[str, Any] = {}
    try:
        document = yaml.compose(read_text(path, FLAG), yaml.SafeLoader)
        if not isinstance(document, yaml.MappingNode):
            raise ValueError(f"{FLAG} {path} must hold lines 'flag: value'.")
        for node, value in document.value:
            name = str(node.value)
            if name in found:  # YAML would keep the last
                raise ValueError(f"{FLAG} {path} names {name!r} twice; remove one of them.")
            found[name] = plain(value)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{FLAG} {path} is not YAML: {error}.") from error
    return found
