"""One JSON per experiment: what was asked, what was drawn, what came out, and what it cost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Optional

from filelock import BaseFileLock, FileLock, Timeout


SCHEMA_VERSION = 1
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROBE_WEIGHTS = "linear_probe.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
RESULT = "result.json"  # written last: a folder that holds it holds a finished experiment
RUN = "run.json"  # what was asked, from the moment training starts
RUN_FILES = (RUN, RESULT, ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBE_WEIGHTS)  # and a card, if it is beside one of them

FIELDS = {
    "schema_version": "int; this file's layout",
    "arguments": "what was asked; two runs with equal arguments are the same experiment",
    "dataset": "name of the data trained on",
    "method": "zero_shot, linear_probe, lora, or a preset of MuDPTConfig",
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def claim(folder: Path, identity: dict[str, Any], overwrite: bool = False) -> Optional[dict[str, Any]]:
    """
    Make sure that a run may use a folder. Nothing is changed there yet.

    Args:
        folder: the run's; need not exist.
        identity: what decides the run's result.
        overwrite: whether it may take the place of another run, or its own from the beginning.

    Returns:
        The result, if this very run has finished there; else None.

    Raises:
        ValueError: if the folder holds another run, or an adapter of no run.
    """
    found = sorted(name for name in RUN_FILES if (folder / name).exists())
    if overwrite or not found:
        return None
    choice = "Choose another --output_dir, or give --overwrite_output_dir."
    if found == [RUN] and not (folder / CHECKPOINTS).exists():
        return None  # a run that failed and left nothing to go on from
    if RUN not in found:
        raise ValueError(f"{folder} holds {', '.join(found)}, of no run that is known. {choice}")
    other = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if other != identity:
        raise ValueError(f"{folder} holds another run ({differences(other, identity)}). {choice}")
    return read_result(folder)


def end_run(lock: BaseFileLock) -> None:
    """Let others at the folder."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """In what two runs differ, in words."""
    return "; ".join(
        f"{name}: {there.get(name)!r} there, {asked.get(name)!r} asked"
        for name in {**asked, **there}
        if there.get(name) != asked.get(name)
    )


def start_run(folder: Path, identity: dict[str, Any], overwrite: bool = False) -> BaseFileLock:
    """
    Write down which run a folder belongs to; where `overwrite`, delete first what another left (its files only).

    Returns:
        A lock on the folder, to be released at the end; the system does so if the process dies.

    Raises:
        ValueError: if another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another process is at work in {folder}. Wait for it, or stop it.") from error
    if overwrite and any((folder / name).exists() for name in RUN_FILES):
        for name in (*RUN_FILES, CARD):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    write_json(folder / RUN, identity)
    return lock


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
    return result


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
