"""The result of a run, one JSON file: its options, the drawn pictures, the metrics and the costs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional


SCHEMA_VERSION = 1
PARTIAL = ".partial"  # suffix of files and folders that are not complete yet
RESULT = "result.json"  # written last, so that its presence means that the experiment has finished

FIELDS = {
    "schema_version": "int; version of this layout",
    "arguments": "the options that determine the result; runs with equal arguments are the same experiment",
    "dataset": "name of the training data",
    "method": "name of the method, as for --method",
    "class_names": "the training classes; the position of a name is its label",
    "template": "text of a class, with {} for its name",
    "template_after_prompts": "the part of template that follows the text prompts",
    "items": "{train, validation: [item, ...]}: the drawn pictures, as paths or split[index]",
    "metrics": "{test set: {accuracy, mean_class_accuracy: percent, classes: {name: [right, seen]}}}; "
    "null for a test set whose classes the method cannot name",
    "zero_shot": "the metrics of CLIP without the adapter",
    "summary": "in percent, by protocol: {accuracy} | {base, new, harmonic_mean} | {source, mean_of_targets}",
    "optimizer": "sgd or adamw; null if nothing is trained",
    "learning_rate": "peak learning rate; null if nothing is trained",
    "steps": "optimizer steps",
    "loss": "mean training loss of the last steps; null if nothing is trained",
    "trainable_parameters": "int",
    "adapter_bytes": "size of the saved weights",
    "seconds": "{training, total}",
    "peak_memory_bytes": "peak of training: of the GPU, or of the whole process on a CPU",
    "nearest_words": "nearest words of the vocabulary to each text prompt token: [[{word, distance}]]; null if there "
    "are no text prompts",
    "versions": "{package: version}",
    "hardware": "{device, threads, processes, mixed_precision}",
}


def in_current_words(asked: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert the options of a run to the form of this version.

    Earlier versions wrote "domain-generalisation", named no loss because all used cross-entropy, and stored
    `method_kwargs` as the user typed it.

    Args:
        asked: options by flag name.

    Returns:
        The same options in the form of this version.
    """
    current = {"objective": "cross_entropy", **asked}
    current["protocol"] = asked["protocol"].replace("generalisation", "generalization")
    if asked.get("method_kwargs") is not None:  # as they were typed
        current["method_kwargs"] = json.dumps(json.loads(asked["method_kwargs"]), ensure_ascii=False)
    return current


def write_json(path: Path, content: dict[str, Any]) -> None:
    """
    Write a JSON file. `path` never holds an incomplete file.

    Args:
        path: path of the file; its folder is created if needed.
        content: what to write.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """
    Write a text file. `path` never holds an incomplete file.

    Args:
        path: path of the file; its folder is created if needed.
        text: what to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """
    Write `result.json`, which marks an experiment as finished.

    Args:
        folder: the folder of the run.
        result: all fields of `FIELDS` except `schema_version`.

    Raises:
        ValueError: if a field is missing or unknown.
    """
    result = {"schema_version": SCHEMA_VERSION, **result}
    if result.keys() != FIELDS.keys():
        raise ValueError(
            f"A result must have the fields {list(FIELDS)}. Missing or unknown: "
            f"{sorted(result.keys() ^ FIELDS.keys())}."
        )
    write_json(folder / RESULT, result)


def read_result(folder: Path) -> Optional[dict[str, Any]]:
    """
    Read the result of a run.

    Args:
        folder: the folder of the run.

    Returns:
        The result, with the fields of `FIELDS`; None if the folder has no `result.json`.

    Raises:
        ValueError: if the file is not JSON, or has another version of the schema.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}. Delete it and run the experiment again.") from error
    version = result.get("schema_version") if isinstance(result, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, but this version of peft_mudpt reads {SCHEMA_VERSION}. "
            "Run the experiment again."
        )
    return {**result, "arguments": in_current_words(result["arguments"])}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """
    Read every result in a folder and its subfolders.

    Args:
        folder: the folder to search.

    Returns:
        The results, sorted by path.

    Raises:
        ValueError: if the folder holds no result, or if a result cannot be read.
    """
    results = [read_result(path.parent) for path in sorted(Path(folder).rglob(RESULT))]
    if not results:
        raise ValueError(
            f"{str(folder)!r} holds no {RESULT}. Run examples/fewshot.py or examples/sweep.py with it as --output_dir "
            "first."
        )
    return results
