"""Files that hold flags: read as if their flags were typed, and written from the folder of a run."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data.text_files import read_json_object, read_text
from .identity import OBJECTIVE, PICTURES, PROCESSES, TASK, as_identity
from .run_folder import RUN, read_identity
from .schema import RESULT, read_result
from .storage import write_text


FLAG = "--config"
JSON, YAML = (".json",), (".yaml", ".yml")
NO_FLAGS = (TASK, OBJECTIVE, PROCESSES, PICTURES)  # in the options of a run, but no flags
FROM_FILES = ("templates", "descriptions")  # of which a run keeps a fingerprint only


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
    if path.suffix not in JSON + YAML:
        raise ValueError(f"{FLAG} {path} must end in {', '.join(JSON + YAML)}.")
    given = read_json_object(path, FLAG, '{"shots": 4, ...}') if path.suffix in JSON else _read_yaml(path)
    for name in given:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            advice = f"Do you mean {similar[0]!r}?" if similar else "--help lists the flags."
            raise ValueError(f"{FLAG} {path} holds {name!r}, which is no flag. {advice}")
    return [
        f"--{name}={_typed(name, value, known[name], path)}"
        for name, value in given.items()
        if value is not None or known[name] is not None
    ]


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


def config_of_run(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Find the flags that determine the result of a run of examples/fewshot.py or fewshot_detection.py.

    Args:
        folder: the folder of the run. `run.json` has whole paths. Without it, those of `result.json` are names only.

    Returns:
        The values by name of flag, without those that are None.

    Raises:
        ValueError: if the folder holds neither file, or if the run used texts of classes from files, of which it
            keeps no copy.
    """
    asked = read_identity(Path(folder)) or (read_result(Path(folder)) or {}).get("arguments")
    if asked is None:
        raise ValueError(f"{folder} holds neither {RUN} nor {RESULT}. Give the folder of a run.")
    config = {name: value for name, value in as_identity(asked).items() if name not in NO_FLAGS}
    lost = [name for name in FROM_FILES if "SHA-256" in (config.get(name) or "")]
    if lost:
        raise ValueError(
            f"The run in {folder} read {' and '.join(lost)} from a file, of which it keeps a fingerprint only. Write "
            "its flags by hand."
        )
    return {name: value for name, value in config.items() if value is not None}


def write_config(config: Mapping[str, Any], file: str | os.PathLike) -> None:
    """
    Write flags to a file that `--config` reads.

    Args:
        config: values by name of flag, such as those of `config_of_run`.
        file: a new file that ends in .yaml, .yml or .json.

    Raises:
        ValueError: if the file exists, or has another suffix.
    """
    import yaml

    path = Path(file)
    if path.suffix not in JSON + YAML:
        raise ValueError(f"{path} must end in {', '.join(JSON + YAML)}.")
    if path.exists():
        raise ValueError(f"{path} exists. Give a new file.")
    if path.suffix in JSON:
        write_text(path, json.dumps(dict(config), indent=1, ensure_ascii=False) + "\n")
    else:
        write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
