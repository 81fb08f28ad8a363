"""Markdown tables of many experiments, and the report that holds them."""

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
    "An embedded world of drawn shapes and a tiny CLIP: it shows that learning works and says nothing about CLIP on "
    "photographs."
)
LEGEND = (
    "Bold: the best mean of a column. –: the method cannot name these classes, or has no such thing. Empty: not run. "
    "Harmonic means are of each run, then averaged. Where learning rates were searched for, it was with the first "
    "seed and the most shots, on validation pictures of the training classes, and the best is used for all."
)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown, without a newline at the end."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def accuracy_table(rows: Rows) -> str:
    """
    Mean ± standard deviation over seeds in percent, under a line that says over how many.

    A row with fewer seeds than the table says so in its name; an untrained method does not depend on seeds.

    Args:
        rows: from one of the functions above.
    """
    columns = columns_of(rows)
    seeds = {seed for row in rows.values() for runs in row.values() for seed in runs}
    statistics = {(n, c): mean_and_deviation(runs) for n, row in rows.items() for c, runs in row.items()}
    best: dict[Column, float] = {}
    shown = {key: round(found[0], 1) for key, found in statistics.items() if found}  # ties are of what is printed
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
    """What each method trains and what that takes: loss, seconds and memory are medians over `results`."""
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
    """The word nearest to each learned text prompt token: largest shots, smallest seed. None if no method has any."""
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
    """Validation accuracy at each learning rate that was tried, lowest first; the chosen one is bold."""
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
    """Accuracy by shots."""
    rows = few_shot_rows(section.results)
    if not rows:
        return {}
    compared = [result for results in runs_of(section.results, "few-shot").values() for result in results]
    return {"Few-shot: all classes, by shots per class": accuracy_table(rows) + _unlike(compared)}


def _unlike(results: Iterable[Result]) -> str:
    """A warning under a table whose methods were not asked the same."""
    asked = [f"{name} ({', '.join(map(str, values))})" for name, values in asked_otherwise(results).items()]
    return f"\n\nNot asked alike of all rows: {'; '.join(asked)}." if asked else ""


def class_and_domain_tables(section: Section) -> dict[str, str]:
    """Of every number of shots: base-to-new, cross-dataset and domain generalization."""
    tables = {}
    for protocol in PROTOCOLS[1:]:
        rows_of = base_to_new_rows if protocol == "base-to-new" else transfer_rows
        for shots, results in runs_of(section.results, protocol).items():
            tables[f"{protocol.capitalize()}, {shots} shots"] = accuracy_table(rows_of(results)) + _unlike(results)
    return tables


def cost_tables(section: Section) -> dict[str, str]:
    """What the most shots of the first protocol took; other numbers of shots train for other numbers of steps."""
    for protocol in PROTOCOLS:
        by_shots = runs_of(section.results, protocol)
        if by_shots:
            shots = max(by_shots)
            return {f"Cost: {protocol}, {shots} shots": cost_table(by_shots[shots])}
    return {}


def learning_rate_tables(section: Section) -> dict[str, str]:
    """Of every protocol and number of shots: the search, on validation items."""
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
    """Of the few-shot protocol."""
    table = nearest_words_table(r for members in runs_of(section.results, "few-shot").values() for r in members)
    return {"Nearest words of learned text prompts (distance)": table} if table else {}


# A new table is a function and an entry here.
ACCURACY_TABLES = (few_shot_tables, class_and_domain_tables)
OTHER_TABLES = (cost_tables, nearest_words_tables, learning_rate_tables)


def mean_tables(parts: Sequence[Section]) -> dict[str, str]:
    """Few-shot and base-to-new accuracy over the data sets of each model that has several."""
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
                note = f"\n\nLeft out, since not run on all: {', '.join(left_out)}." if left_out else ""
                tables[title] = accuracy_table(rows) + note
    return tables


def data_lines(parts: Sequence[Section]) -> str:
    """What was adapted to, and what that is worth."""
    data_sets = {part.dataset: part.embedded for part in parts}
    return "\n\n".join(f"Data: `{name}`.{f' {EMBEDDED_WORLD}' * drawn}" for name, drawn in data_sets.items())


def markdown_report(
    results: Sequence[Result], pictures: Mapping[str, Sequence[str]], accuracy_only: bool = False
) -> str:
    """
    Everything that `results` say, as Markdown.

    Args:
        results: as from `read_results`.
        pictures: by the title of a section, the paths of pictures to show in it, relative to the report.
        accuracy_only: leave out costs, words and the search for learning rates.

    Raises:
        ValueError: if two results belong into one cell of a table.
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
