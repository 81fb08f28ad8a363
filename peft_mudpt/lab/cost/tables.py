"""Shows the measurements of the benchmark: tables of the ratios between the ways (`cases.WAYS`), and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from .banks import BATCH_SIZE
from .cases import ATTACK, ATTACKED, INFERENCE, KNOWN, OURS, PADDED, PLAIN, TRAINING, WAYS
from .detectors import FROZEN, FULL, LORA, RANK, SDPT, TOKENS
from .limits import in_words
from .per_class import name_of, per_class_parts
from .rows import Row


WORDS = {
    KNOWN: "**known**: `MuDPTClassifier` with given image features, as in each epoch without augmentation after the "
    "pictures were encoded once. ",
    ATTACKED: f"**attacked**: `MuDPTClassifier` after an attack of {ATTACK.steps} steps on the images. ",
}
WORDS_FOR_BANKS = (
    f"**ours**: `AdversarialBank.build`, which attacks each picture by {ATTACK.steps} steps and encodes the result. "
    f"**plain**: {ATTACK.steps} forward and backward passes of CLIP's image tower on the same pictures. Both in "
    f"batches of {BATCH_SIZE}."
)
WORDS_FOR_DETECTORS = (
    f"**sdpt**: SDPT with {TOKENS} tokens per fusion layer. **frozen**: the detector without an adapter; its backward "
    "pass ends at the inputs of the first fusion layer's attention, where the first prompts of SDPT enter. This is a "
    f"lower bound. **lora**: LoRA of rank {RANK} on the six projections of each fusion layer. **full**: all weights "
    "are trained. **plain**: the detector without an adapter. A training step is a forward pass with the loss, a "
    "backward pass, and an update of the trained weights by AdamW, whose state is part of the memory."
)

WORDS_FOR_LAB = (
    "Each part runs in a process of its own, whose start is not counted, except in a sweep. **waits**: share of the "
    "time in which training waits for the next batch of pictures. Caches are warm if another model with the same "
    "image tower was tested on the same pictures before."
)

Values = Callable[[Row], dict[str, float]]


def median_seconds(row: Row) -> dict[str, float]:
    """
    Compute the median times of a row.

    Args:
        row: a row of `times` from `running.run`.

    Returns:
        The seconds of each way (see `cases.WAYS`); an extrapolated value for a way that was not measured.
    """
    return {**{way: median(turns) for way, turns in row["seconds"].items()}, **row["extrapolated"]}


def peak_bytes(row: Row) -> dict[str, float]:
    """
    Look up the peak memory of a row.

    Args:
        row: a row of `memory` from `running.run`.

    Returns:
        The bytes of each way (see `cases.WAYS`); an extrapolated value for a way that was not measured.
    """
    return {**row["bytes"], **row["extrapolated"]}


def markdown(result: dict[str, Any]) -> str:
    """
    Format tables of the ratios of time and of peak memory between the ways.

    Args:
        result: the measurements, as from `running.run`.

    Returns:
        The tables, as Markdown.
    """
    parts = [_describe(result)]
    for task, title in ((TRAINING, "Time of a training step"), (INFERENCE, "Time of a batch in inference")):
        rows = [row for row in result["times"] if row["task"] == task]
        if rows:
            parts += [f"### {title}", _table(rows, median_seconds), notes(rows), _growth(rows, median_seconds)]
    if rows := result["memory"]:
        parts += [
            "### Peak memory of a training step",
            _table(rows, peak_bytes),
            notes(rows),
            _growth(rows, peak_bytes),
        ]
    parts += per_class_parts(result["times"], result["memory"])
    if rows := result["banks"]:
        parts += ["### Time of building a bank of attacked pictures", WORDS_FOR_BANKS, _bank_table(rows), notes(rows)]
    parts += _detector_parts(result)
    if rows := result["lab"]:
        parts += ["### The lab in the embedded world", WORDS_FOR_LAB, _lab_table(rows), notes(rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _detector_parts(result: dict[str, Any]) -> list[str]:
    """What the ways are, and a table for each task and for the memory; empty if no detector was measured."""
    times, memory = result["detector_times"], result["detector_memory"]
    training, inference = ([row for row in times if row["task"] == task] for task in (TRAINING, INFERENCE))
    parts = []
    for title, rows, ways, below in (
        ("Time of a training step of a detector", training, (SDPT, LORA, FULL), FROZEN),
        ("Time of a batch of a detector in inference", inference, (SDPT,), PLAIN),
        ("Peak memory of a training step of a detector", memory, (SDPT, LORA, FROZEN), FULL),
    ):
        if rows:
            parts += [f"### {title}", _detector_table(rows, ways, below), notes(rows)]
    return [WORDS_FOR_DETECTORS, *parts] if parts else []


def _detector_table(rows: list[Row], ways: Sequence[str], below: str) -> str:
    titles = ["detector", "picture", "batch", "classes", *(f"{way} : {below}" for way in ways)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        height, width = row["picture_shape"]
        cells = [f"{_ratio(row, _measured, way, below)}{_spread(row, way, below)}" for way in ways]
        lines.append(
            f"| {row['model']} | {height} x {width} | {row['batch_size']} | {row['classes']:,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _measured(row: Row) -> dict[str, float]:
    """The seconds or bytes of each way that was measured."""
    return row["seconds"] if "seconds" in row else row["bytes"]


def _describe(result: dict[str, Any]) -> str:
    machine = f"{result['threads']} CPU cores" if result["device"] == "cpu" else result["device"]
    if not any(result[rows] for rows in ("times", "memory", "banks", "detector_times", "detector_memory")):
        return f"Measured in one run on {machine}, {result['precision']}, torch {result['torch']}."
    return (
        f"Measured in turns in one run on {machine}, {result['precision']}, torch {result['torch']}, with random "
        f"weights{_describe_ways(result) if result['times'] or result['memory'] else ''}. Each cell holds the median "
        "ratio over the turns, and in brackets the lowest and the highest."
    )


def _describe_ways(result: dict[str, Any]) -> str:
    return (
        " and class names of one to four words. **padded**: texts are padded to the text tower's 77 positions and "
        "encoded for each batch, as in published code. **ours**: `MuDPTClassifier`. **plain**: only CLIP's image "
        "tower, without prompts and texts, which is a lower bound. "
        + "".join(words for way, words in WORDS.items() if any(way in row["seconds"] for row in result["times"]))
        + "A training step is a forward and a backward pass"
    )


def _table(rows: list[Row], values: Values) -> str:
    titles = ["model", "batch", "classes", "padded : ours", "ours : plain", "padded : plain"]
    others = [(above, KNOWN) for above in (OURS, ATTACKED) if any({above, KNOWN} <= {*values(row)} for row in rows)]
    titles += [f"{above} : {below}" for above, below in others]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        mark = " *" if PADDED in row["extrapolated"] else ""
        cells = [
            f"{_bold(_ratio(row, values, PADDED, OURS))}{_spread(row, PADDED, OURS)}{mark}",
            f"{_ratio(row, values, OURS, PLAIN)}{_spread(row, OURS, PLAIN)}",
            f"{_ratio(row, values, PADDED, PLAIN)}{mark}",
        ]
        for above, below in others:
            cells.append(f"{_bold(_ratio(row, values, above, below))}{_spread(row, above, below)}")
        lines.append(f"| {name_of(row)} | {row['batch_size']} | {row['classes']:,} | {' | '.join(cells)} |")
    if any(PADDED in row["extrapolated"] for row in rows):
        lines.append(
            "\n\\* padded did not fit into memory; the value is on the line through its two largest measurements."
        )
    return "\n".join(lines)


def _bold(cell: str) -> str:
    return f"**{cell}**" if cell[0].isdigit() else cell


def notes(rows: list[Row]) -> str:
    """
    List what was not measured, and why.

    Args:
        rows: the rows of the benchmark.

    Returns:
        The list in Markdown; empty if everything was measured.
    """
    lines = [f"- {_case(row)}: {note}" for row in rows for note in row["notes"]]
    return "\n".join(["Not measured:\n", *lines]) if lines else ""


def _case(row: Row) -> str:
    if "what" in row:
        return row["what"]
    if "pictures" in row:
        return f"{row['model']}, {row['pictures']:,} pictures"
    return f"{name_of(row)}, batch {row['batch_size']}, {row['classes']:,} classes"


def _lab_table(rows: list[Row]) -> str:
    lines = ["| what | amount | seconds | per second | waits |", "|---|---|---|---|---|"]
    for row in rows:
        amount, seconds = row["amount"], row["seconds"]
        per_second = amount / seconds if seconds else 0.0
        rate = f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}" if per_second else "–"
        waits = "–" if row["waits"] is None else f"{100 * row['waits']:.0f} %"
        lines.append(f"| {row['what']} | {amount:,} {row['unit']} | {seconds:.2f} | {rate} | {waits} |")
    return "\n".join(lines)


def _bank_table(rows: list[Row]) -> str:
    lines = ["| model | pictures | ours : plain |", "|---|---|---|"]
    for row in rows:
        ratio = f"{_ratio(row, _measured, OURS, PLAIN)}{_spread(row, OURS, PLAIN)}"
        lines.append(f"| {row['model']} | {row['pictures']:,} | {ratio} |")
    return "\n".join(lines)


def _ratio(row: Row, values: Values, above: str, below: str) -> str:
    value, turns = values(row), _turns(row, above, below)
    if lacking := [way for way in (above, below) if way not in value]:
        needed = row.get("left_out", {}).get(lacking[0])
        return f"needs {in_words(needed)}" if needed else "–"
    ratio = median(turns) if turns else value[above] / value[below]
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def _spread(row: Row, above: str, below: str) -> str:
    turns = _turns(row, above, below)
    return f" ({min(turns):.2f}–{max(turns):.2f})" if turns else ""


def _turns(row: Row, above: str, below: str) -> list[float]:
    """The ratio of the seconds of `above` to those of `below`, in each turn that timed both; empty for memory."""
    seconds = row.get("seconds", {})
    return [a / b for a, b in zip(seconds.get(above, []), seconds.get(below, []))]


def _growth(rows: list[Row], values: Values) -> str:
    """By what factor a cost grows from the fewest to the most classes, in `last_rows`."""
    shown = last_rows([row for row in rows if values(row)])
    if len(shown) < 2:
        return ""
    first, last = shown[0], shown[-1]
    few, many = values(first), values(last)
    grown = ", ".join(f"{way} {many[way] / few[way]:.2f} times" for way in WAYS if way in few and way in many)
    case = f"{name_of(last)}, batch {last['batch_size']}"
    return f"From {first['classes']:,} to {last['classes']:,} classes ({case}): {grown}."


def last_rows(rows: list[Row]) -> list[Row]:
    """
    Choose the rows of the last model and adapter, at the smallest batch.

    Args:
        rows: the rows of the benchmark.

    Returns:
        These rows; none if there are none.
    """
    if not rows:
        return []
    batch = min(row["batch_size"] for row in rows)
    return [row for row in rows if (name_of(row), row["batch_size"]) == (name_of(rows[-1]), batch)]
