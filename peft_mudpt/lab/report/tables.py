"""Markdown tables of the results of experiments, and the report that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median
from typing import Optional

from ..protocols import PROTOCOLS
from .rows import (
    Column,
    Result,
    Rows,
    Section,
    asked_otherwise,
    base_to_new_rows,
    best_learning_rate,
    by_method,
    columns_of,
    few_shot_rows,
    is_untrained,
    learning_rate_rows,
    mean_and_deviation,
    mean_over_data_sets,
    runs_of,
    sections,
    transfer_rows,
)


EMBEDDED_WORLD = (
    "This is the embedded world of drawn shapes and a tiny CLIP. It shows that learning works, and says nothing about "
    "CLIP on photographs."
)
LEGEND = (
    "Bold: the best mean of a column. –: the method cannot name these classes, or has no such value. Empty: not run. "
    "Harmonic means are computed for each run and then averaged. If learning rates were searched, the search used the "
    "first seed, the most shots and validation pictures of the training classes; all runs use the best rate."
)


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


def accuracy_table(rows: Rows) -> str:
    """
    Format accuracies as mean ± standard deviation over seeds, in percent. A line above the table names the number of
    seeds.

    If a row has fewer seeds than the table, its name says so, unless its method is untrained and does not depend on
    seeds.

    Args:
        rows: rows of `report.rows`.

    Returns:
        The line and the table, as Markdown.
    """
    columns = columns_of(rows)
    seeds = {seed for row in rows.values() for runs in row.values() for seed in runs}
    statistics = {(n, c): mean_and_deviation(runs) for n, row in rows.items() for c, runs in row.items()}
    best: dict[Column, float] = {}
    shown = {key: round(found[0], 1) for key, found in statistics.items() if found}  # as printed, for ties
    for (_, column), value in shown.items():
        best[column] = max(value, best.get(column, value))

    def cell(name: str, column: Column) -> str:
        if column not in rows[name]:
            return ""
        if statistics[name, column] is None:
            return "–"
        average, deviation = statistics[name, column]
        text = f"{average:.1f}" if deviation is None else f"{average:.1f} ± {deviation:.1f}"
        return f"**{text}**" if shown[name, column] == best[column] else text

    def title(name: str) -> str:
        counts = sorted({len(runs) for runs in rows[name].values()})
        if is_untrained(name) or counts == [len(seeds)]:
            return name
        return f"{name} ({' to '.join(map(str, counts[:1] + counts[1:][-1:]))} of {len(seeds)} seeds)"

    over = "one seed" if len(seeds) == 1 else f"mean ± standard deviation over {len(seeds)} seeds"
    lines = [[title(name), *(cell(name, column) for column in columns)] for name in rows]
    return f"Accuracy in %, {over}.\n\n{markdown_table(['method', *map(str, columns)], lines)}"


def cost_table(results: Iterable[Result]) -> str:
    """
    Format the cost of each method: loss, seconds and memory are medians over its results.

    Args:
        results: results of one protocol with equal shots.

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
        line = [name, trainable, _distinct(kilobytes, "{:,.0f}"), optimizer, learning_rate, loss]
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
        chosen[name] = [f"{_escaped(word['word'])} ({word['distance']:.2f})" for word in nearest]
    if not chosen:
        return None
    tokens = max(map(len, chosen.values()))
    lines = ([name, *words, *[""] * (tokens - len(words))] for name, words in chosen.items())
    return markdown_table(["method", *(f"token {i + 1}" for i in range(tokens))], lines)


def _escaped(word: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", word)


def learning_rate_table(rows: Rows) -> str:
    """
    Format the validation accuracy at each learning rate that was tried, lowest first. The chosen one is bold.

    Args:
        rows: rows of `learning_rate_rows`.

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
        lines.append([name, *cells])
    width = max(map(len, lines))
    header = ["method", *(f"try {i}" for i in range(1, width))]
    table = markdown_table(header, ([*line, *[""] * (width - len(line))] for line in lines))
    return f"Learning rate: accuracy in %. Bold: chosen.\n\n{table}"


def few_shot_tables(section: Section) -> dict[str, str]:
    """
    Make the table of the few-shot protocol.

    Args:
        section: the results of one model on one data set.

    Returns:
        Tables by title; none without results.
    """
    rows = few_shot_rows(section.results)
    if not rows:
        return {}
    compared = [result for results in runs_of(section.results, "few-shot").values() for result in results]
    return {"Few-shot: all classes, by shots per class": accuracy_table(rows) + _unlike(compared)}


def _unlike(results: Iterable[Result]) -> str:
    """A warning below a table whose runs differ in options that the table does not show."""
    options = [f"{name} ({', '.join(map(str, values))})" for name, values in asked_otherwise(results).items()]
    return f"\n\nThe rows differ in other options: {'; '.join(options)}." if options else ""


def class_and_domain_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of base-to-new, cross-dataset and domain generalization, one for each number of shots.

    Args:
        section: the results of one model on one data set.

    Returns:
        Tables by title; none without results.
    """
    tables = {}
    for protocol in PROTOCOLS[1:]:
        rows_of = base_to_new_rows if protocol == "base-to-new" else transfer_rows
        for shots, results in runs_of(section.results, protocol).items():
            tables[f"{protocol.capitalize()}, {shots} shots"] = accuracy_table(rows_of(results)) + _unlike(results)
    return tables


def cost_tables(section: Section) -> dict[str, str]:
    """
    Make the cost table of the first protocol at the most shots, because the number of steps depends on the shots.

    Args:
        section: the results of one model on one data set.

    Returns:
        Tables by title; none without results.
    """
    for protocol in PROTOCOLS:
        by_shots = runs_of(section.results, protocol)
        if by_shots:
            shots = max(by_shots)
            return {f"Cost: {protocol}, {shots} shots": cost_table(by_shots[shots])}
    return {}


def learning_rate_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of the learning rate search, one for each protocol and number of shots.

    Args:
        section: the results of one model on one data set.

    Returns:
        Tables by title; none without results.
    """
    tables = {}
    for protocol in PROTOCOLS:
        for shots, results in runs_of(section.results, protocol, "validation").items():
            rows = learning_rate_rows(results)
            if rows:
                tables[f"Learning rates, on validation pictures: {protocol}, {shots} shots"] = learning_rate_table(
                    rows
                )
    return tables


def nearest_words_tables(section: Section) -> dict[str, str]:
    """
    Make the table of the words nearest to the text prompts, for the few-shot protocol.

    Args:
        section: the results of one model on one data set.

    Returns:
        Tables by title; none without results.
    """
    table = nearest_words_table(r for members in runs_of(section.results, "few-shot").values() for r in members)
    return {"Nearest words of learned text prompts (distance)": table} if table else {}


# To add a table, write a function and add it here.
ACCURACY_TABLES = (few_shot_tables, class_and_domain_tables)
OTHER_TABLES = (cost_tables, nearest_words_tables, learning_rate_tables)


def mean_tables(parts: Sequence[Section]) -> dict[str, str]:
    """
    Make the tables of few-shot and base-to-new accuracy averaged over data sets, for models that have several.

    Args:
        parts: the results of each model on each data set.

    Returns:
        Tables by title.
    """
    tables = {}
    models = list(dict.fromkeys(part.model for part in parts))
    for model in models:
        of_model = [part.results for part in parts if part.model == model]
        shots = sorted({shots for results in of_model for shots in runs_of(results, "base-to-new")})
        kinds = {"Few-shot": [few_shot_rows(results) for results in of_model]}
        for k in shots:
            found = [runs_of(results, "base-to-new").get(k, []) for results in of_model]
            kinds[f"Base-to-new, {k} shots"] = [base_to_new_rows(results) for results in found]
        for kind, by_data_set in kinds.items():
            by_data_set = [rows for rows in by_data_set if rows]
            rows = mean_over_data_sets(by_data_set) if len(by_data_set) > 1 else {}
            if rows:
                title = f"{kind}: mean over {len(by_data_set)} data sets{'' if len(models) == 1 else f', {model}'}"
                left_out = sorted({name for some in by_data_set for name in some} - rows.keys())
                note = f"\n\nLeft out, because not run on all data sets: {', '.join(left_out)}." if left_out else ""
                tables[title] = accuracy_table(rows) + note
    return tables


def data_lines(parts: Sequence[Section]) -> str:
    """
    Name the data sets, and say what the embedded world does not show.

    Args:
        parts: the results of each model on each data set.

    Returns:
        One paragraph for each data set.
    """
    data_sets = {part.dataset: part.embedded for part in parts}
    return "\n\n".join(f"Data: `{name}`.{f' {EMBEDDED_WORLD}' * embedded}" for name, embedded in data_sets.items())


def markdown_report(
    results: Sequence[Result], pictures: Mapping[str, Sequence[str]], accuracy_only: bool = False
) -> str:
    """
    Write the report of results.

    Args:
        results: as from `read_results`.
        pictures: paths of plots to show, relative to the report, by the title of their section.
        accuracy_only: True to leave out costs, nearest words and the learning rate search.

    Returns:
        The report, as Markdown.

    Raises:
        ValueError: if two results belong to the same cell of a table.
    """
    parts = sections(results)
    blocks = [data_lines(parts), LEGEND]
    for title, table in mean_tables(parts).items():
        blocks += [f"## {title}", table]
    kinds = ACCURACY_TABLES if accuracy_only else (*ACCURACY_TABLES, *OTHER_TABLES)
    for part in parts:
        if len(parts) > 1 or not accuracy_only:
            blocks.append(f"## {part.title}")
        blocks += [f"![{picture}]({picture})" for picture in pictures.get(part.title, ())]
        for title, table in (item for kind in kinds for item in kind(part).items()):
            blocks += [f"### {title}", table]
    return "\n\n".join(blocks) + "\n"
