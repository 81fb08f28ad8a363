"""Shows the measurements of the benchmark: tables of the ratios between the ways (`cases.WAYS`), and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .banks import BATCH_SIZE
from .cases import ATTACK, ATTACKED, DEFAULT_ADAPTER, INFERENCE, KNOWN, OURS, PADDED, PLAIN, TASKS, TRAINING, WAYS
from .detectors import FROZEN, FULL, LORA, RANK, SDPT, TOKENS


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

Row = dict[str, Any]
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
            parts += [f"### {title}", _table(rows, median_seconds), _growth(rows, median_seconds)]
    if result["memory"]:
        rows = result["memory"]
        parts += ["### Peak memory of a training step", _table(rows, peak_bytes), _growth(rows, peak_bytes)]
    if result["banks"]:
        parts += ["### Time of building a bank of attacked pictures", WORDS_FOR_BANKS, _bank_table(result["banks"])]
    parts += _detector_parts(result)
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
            parts += [f"### {title}", _detector_table(rows, ways, below)]
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
            f"**{_ratio(row, values, PADDED, OURS)}**{_spread(row, PADDED, OURS)}{mark}",
            f"{_ratio(row, values, OURS, PLAIN)}{_spread(row, OURS, PLAIN)}",
            f"{_ratio(row, values, PADDED, PLAIN)}{mark}",
        ]
        for above, below in others:
            ratio = _ratio(row, values, above, below)
            cells.append(f"**{ratio}**{_spread(row, above, below)}" if {above, below} <= {*values(row)} else ratio)
        lines.append(f"| {_name(row)} | {row['batch_size']} | {row['classes']:,} | {' | '.join(cells)} |")
    if any(PADDED in row["extrapolated"] for row in rows):
        lines.append(
            "\n\\* padded did not fit into memory; the value is on the line through its two largest measurements."
        )
    return "\n".join(lines)


def _bank_table(rows: list[Row]) -> str:
    lines = ["| model | pictures | ours : plain |", "|---|---|---|"]
    for row in rows:
        ratio = f"{_ratio(row, _measured, OURS, PLAIN)}{_spread(row, OURS, PLAIN)}"
        lines.append(f"| {row['model']} | {row['pictures']:,} | {ratio} |")
    return "\n".join(lines)


def _name(row: Row) -> str:
    return row["model"] if row["adapter"] == DEFAULT_ADAPTER else f"{row['model']}, {row['adapter']}"


def _ratio(row: Row, values: Values, above: str, below: str) -> str:
    value, turns = values(row), _turns(row, above, below)
    if above not in value or below not in value:
        return "–"
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
    """By what factor a cost grows from the fewest to the most classes, in `_last`."""
    shown = _last(rows)
    if len(shown) < 2:
        return ""
    first, last = shown[0], shown[-1]
    few, many = values(first), values(last)
    grown = ", ".join(f"{way} {many[way] / few[way]:.2f} times" for way in WAYS if way in few and way in many)
    case = f"{_name(last)}, batch {last['batch_size']}"
    return f"From {first['classes']:,} to {last['classes']:,} classes ({case}): {grown}."


def _last(rows: list[Row]) -> list[Row]:
    """The rows of the last model and adapter, at the smallest batch."""
    batch = min(row["batch_size"] for row in rows)
    return [row for row in rows if (_name(row), row["batch_size"]) == (_name(rows[-1]), batch)]


def plot(result: dict[str, Any], file: Path) -> None:
    """
    Plot times and memory by number of classes, relative to the way "plain", with logarithmic axes. The plot shows the
    last model and adapter at the smallest batch size.

    Args:
        result: the measurements, as from `running.run`.
        file: PNG file to write; its folder is created if needed.

    Raises:
        ValueError: if neither times nor memory were measured.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[str, list[Row], Values]] = [
        (task, [row for row in result["times"] if row["task"] == task], median_seconds) for task in TASKS
    ]
    panels.append(("memory", result["memory"], peak_bytes))
    panels = [panel for panel in panels if panel[1]]  # those with measurements
    if not panels:
        raise ValueError(f"Nothing to plot in {file}: no time of a step and no memory was measured.")
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (name, rows, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        shown = _last(rows)
        for way, color in ((PADDED, "#999999"), (OURS, "#D55E00")):
            points = [(row["classes"], values(row)[way] / values(row)[PLAIN]) for row in shown if way in values(row)]
            axes.plot(*zip(*points) if points else ([], []), marker="o", color=color, label=way)
        axes.axhline(1, color="black", linestyle=":", label=PLAIN)
        axes.set(
            title=f"{name}, {_name(shown[0])}, batch {shown[0]['batch_size']}",
            xlabel="classes",
            ylabel="plain CLIP = 1",
        )
        axes.set(xscale="log", yscale="log")
        axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
