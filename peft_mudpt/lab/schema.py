"""One JSON per run: what was asked, what was drawn, what came out, and what it cost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional


SCHEMA_VERSION = 1
RESULT = "result.json"  # written last: a folder that holds it holds a finished experiment

FIELDS = {
    "schema_version": "int; this file's layout",
    "arguments": "what was asked; two runs with equal arguments are the same experiment",
    "dataset": "name of the data trained on",
    "method": "its name, as for --method",
    "class_names": "the classes trained on, by label",
    "template": "the text of a class, with {}",
    "template_after_prompts": "what of it stands after the text prompts",
    "items": "{train, validation: [item, ...]}: the items drawn, as paths or split[index]",
    "metrics": "{test set: {accuracy, mean_class_accuracy: percent, classes: {name: [right, seen]}}}; "
    "null for a test set whose classes the method cannot name",
    "zero_shot": "the same of CLIP without the adapter",
    "summary": "in percent, by protocol: {accuracy} | {base, new, harmonic_mean} | {source, mean_of_targets}",
    "optimizer": "sgd or adamw; null where nothing is trained",
    "learning_rate": "peak; null where nothing is trained",
    "steps": "optimizer steps",
    "loss": "mean training loss of the last steps; null where nothing is trained",
    "trainable_parameters": "int",
    "adapter_bytes": "size of the saved weights",
    "seconds": "{training, total}",
    "peak_memory_bytes": "of training: of the accelerator, or on a CPU of the whole process until its end",
    "nearest_words": "per text prompt token, the nearest words of the vocabulary: [[{word, distance}]]; null without",
    "versions": "{package: version}",
    "hardware": "{device, threads, processes, mixed_precision}",
}


def in_current_words(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of a run, as it is spelled today: earlier versions wrote "domain-generalisation"."""
    return {**asked, "protocol": asked["protocol"].replace("generalisation", "generalization")}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """
    Finish an experiment: write `result.json` of `folder`.

    Raises:
        ValueError: if `result` lacks a field of the schema, or has one more.
    """
    result = {"schema_version": SCHEMA_VERSION, **result}
    if result.keys() != FIELDS.keys():
        raise ValueError(
            f"A result has the fields {list(FIELDS)}; these differ: {sorted(result.keys() ^ FIELDS.keys())}."
        )
    write_json(folder / RESULT, result)


def read_result(folder: Path) -> Optional[dict[str, Any]]:
    """
    The result in `folder`, or None if it holds none.

    Raises:
        ValueError: if it is not JSON, or of another version of the schema.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a result: {error}. Delete it and run the experiment again.") from error
    version = result.get("schema_version") if isinstance(result, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} is of schema version {version}; this version of peft_mudpt reads {SCHEMA_VERSION}. "
            "Run the experiment again."
        )
    return {**result, "arguments": in_current_words(result["arguments"])}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """
    Every result under `folder`, in the order of their paths.

    Raises:
        ValueError: if there is none.
    """
    results = [read_result(path.parent) for path in sorted(Path(folder).rglob(RESULT))]
    if not results:
        raise ValueError(f"{folder} holds no {RESULT}: run examples/fewshot.py or examples/sweep.py into it first.")
    return results
