"""Rows of numbers as tables in Markdown, one function per kind of table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Optional

from .compared import Compared, compared, compared_differences
from .escaping import literal, plain
from .rows import Rows, best_learning_rate, by_method
from .sections import Result


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    Format a Markdown table.

    Args:
        header: cells of the header.
        rows: cells of each row, as Markdown.

    Returns:
        The table, without a newline at its end.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def accuracy_table(rows: Rows, measure: str = "Accuracy") -> str:
    """
    Format accuracies, or other numbers in percent, as mean ± standard deviation over seeds. The row with the best mean
    in the last column stands first. A line above the table names the number of seeds.

    If a row has fewer seeds than the whole table, the row name says so, except for an untrained method, which does
    not depend on seeds.

    Args:
        rows: rows from a function of `report.rows`, such as `few_shot_rows`.
        measure: what the numbers are.

    Returns:
        The line and the table, as Markdown.
    """
    table = compared(rows)
    return f"{measure} in %, {table.over}.\n\n{_markdown(table)}"


def difference_table(rows: Rows, reference: str, measure: str = "Accuracy") -> str:
    """
    Format paired differences as their mean over seeds with the 95 % confidence interval in brackets, in percentage
    points. A line above the table explains this.

    Args:
        rows: rows of `paired.differences`.
        reference: name of the row to which the others are compared.
        measure: what the numbers are.

    Returns:
        The line and the table, as Markdown.
    """
    return (
        f"{measure} minus that of {literal(reference)} with the same seed and pictures, in percentage points: mean "
        "over the seeds that both have [95 % confidence interval of Student's t]. Bold here: the interval excludes 0."
        f"\n\n{_markdown(compared_differences(rows))}"
    )


def _markdown(table: Compared) -> str:
    lines = [
        [plain(name), *(f"**{text}**" if is_bold else text for text, is_bold in cells)] for name, cells in table.lines
    ]
    return markdown_table(["method", *map(plain, table.columns)], lines)


def cost_table(results: Iterable[Result]) -> str:
    """
    Format the cost of each method. Training loss, training seconds and peak memory (MB) are medians over the method's
    results.

    Args:
        results: results of one protocol, all with the same number of shots.

    Returns:
        The table, as Markdown.
    """
    header = ("method", "trainable parameters", "adapter file, KB", "optimizer", "learning rate", "training loss")
    lines = []
    for name, members in by_method(results).items():
        kilobytes = [(result["adapter_bytes"] or 0) / 1000 for result in members]
        seconds = median(result["seconds"]["training"] or 0 for result in members)
        megabytes = median(result["peak_memory_bytes"] or 0 for result in members) / 1e6
        trainable, optimizer, learning_rate = (
            _distinct([result[field] for result in members], layout)
            for field, layout in (("trainable_parameters", "{:,}"), ("optimizer", "{}"), ("learning_rate", "{:g}"))
        )
        losses = [result["loss"] for result in members if result["loss"] is not None]
        loss = f"{median(losses):.2f}" if losses else "–"
        line = [plain(name), trainable, _distinct(kilobytes, "{:,.0f}"), optimizer, learning_rate, loss]
        lines.append([*line, f"{seconds:.1f}", f"{megabytes:,.0f}"])
    return markdown_table([*header, "training, s", "peak memory, MB"], lines)


def _distinct(values: Iterable, layout: str) -> str:
    texts = (layout.format(value) for value in sorted({value for value in values if value is not None}))
    return " / ".join(dict.fromkeys(texts)) or "–"


def nearest_words_table(results: Iterable[Result]) -> Optional[str]:
    """
    Format the word nearest to each learned text prompt token, from the run with the most shots and the smallest seed.

    Args:
        results: results of one protocol.

    Returns:
        The table, as Markdown; None if no method has text prompts.
    """
    chosen: dict[str, list[str]] = {}
    for name, members in by_method(result for result in results if result["nearest_words"]).items():
        run = min(members, key=lambda result: (-result["arguments"]["shots"], result["arguments"]["seed"]))
        nearest = [words[0] for words in run["nearest_words"]]
        chosen[name] = [f"{plain(word['word'])} ({word['distance']:.2f})" for word in nearest]
    if not chosen:
        return None
    tokens = max(map(len, chosen.values()))
    lines = ([plain(name), *words, *[""] * (tokens - len(words))] for name, words in chosen.items())
    return markdown_table(["method", *(f"token {i + 1}" for i in range(tokens))], lines)


def learning_rate_table(rows: Rows, measure: str = "accuracy") -> str:
    """
    Format the accuracy, or another number in percent, on validation pictures at each learning rate that was tried,
    lowest first. The chosen one is bold.

    Args:
        rows: rows of `learning_rate_rows`.
        measure: what the numbers are.

    Returns:
        The table, as Markdown.
    """
    lines = []
    for name, row in rows.items():
        accuracies = {rate: mean(runs.values()) for rate, runs in sorted(row.items())}
        chosen = best_learning_rate(accuracies)
        cells = [
            f"**{rate:g}: {a:.1f}**" if rate == chosen else f"{rate:g}: {a:.1f}" for rate, a in accuracies.items()
        ]
        lines.append([plain(name), *cells])
    width = max(map(len, lines))
    header = ["method", *(f"try {i}" for i in range(1, width))]
    table = markdown_table(header, ([*line, *[""] * (width - len(line))] for line in lines))
    return f"Learning rate: {measure} in %. Bold: chosen.\n\n{table}"
