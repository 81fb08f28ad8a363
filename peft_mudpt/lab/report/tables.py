"""Markdown tables of the results of experiments, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..protocols import PROTOCOLS
from .escaping import literal, plain
from .markdown import accuracy_table, cost_table, learning_rate_table, nearest_words_table
from .rows import (
    Result,
    Section,
    asked_otherwise,
    base_to_new_rows,
    few_shot_rows,
    learning_rate_rows,
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


def few_shot_tables(section: Section) -> dict[str, str]:
    """
    Make the table of the few-shot protocol.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if there are no results.
    """
    rows = few_shot_rows(section.results)
    if not rows:
        return {}
    compared = [result for results in runs_of(section.results, "few-shot").values() for result in results]
    return {"Few-shot: all classes, by shots per class": accuracy_table(rows) + _unlike(compared)}


def _unlike(results: Iterable[Result]) -> str:
    """A warning to append to a table if its runs differ in options that the table does not show; otherwise empty."""
    options = [f"{name} ({plain(', '.join(map(str, values)))})" for name, values in asked_otherwise(results).items()]
    return f"\n\nThe rows differ in other options: {'; '.join(options)}." if options else ""


def class_and_domain_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of base-to-new, cross-dataset and domain generalization, one for each protocol and number of
    shots.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if there are no results.
    """
    tables = {}
    for protocol in PROTOCOLS[1:]:
        rows_of = base_to_new_rows if protocol == "base-to-new" else transfer_rows
        for shots, results in runs_of(section.results, protocol).items():
            tables[f"{protocol.capitalize()}, {shots} shots"] = accuracy_table(rows_of(results)) + _unlike(results)
    return tables


def cost_tables(section: Section) -> dict[str, str]:
    """
    Make one cost table, for the first of `PROTOCOLS` that has results. The table covers only the runs with the most
    shots, because the number of training steps depends on the shots.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if there are no results.
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
        The tables by title; an empty dict if there are no results.
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
        The tables by title; an empty dict if there are no results.
    """
    table = nearest_words_table(r for members in runs_of(section.results, "few-shot").values() for r in members)
    return {"Nearest words of learned text prompts (distance)": table} if table else {}


# To add a table, write a function and add it here.
ACCURACY_TABLES = (few_shot_tables, class_and_domain_tables)
OTHER_TABLES = (cost_tables, nearest_words_tables, learning_rate_tables)


def mean_tables(parts: Sequence[Section]) -> dict[str, str]:
    """
    Make the tables of few-shot and base-to-new accuracy averaged over data sets, for each model with results on
    several data sets.

    Args:
        parts: the results of each model on each data set.

    Returns:
        The tables by title.
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
                note = (
                    f"\n\nLeft out, because not run on all data sets: {plain(', '.join(left_out))}."
                    if left_out
                    else ""
                )
                tables[title] = accuracy_table(rows) + note
    return tables


def data_lines(parts: Sequence[Section]) -> str:
    """
    Name the data sets. If the package itself draws the pictures of a data set, add the caveat `EMBEDDED_WORLD`.

    Args:
        parts: the results of each model on each data set.

    Returns:
        One paragraph for each data set.
    """
    data_sets = {part.dataset: part.embedded for part in parts}
    return "\n\n".join(
        f"Data: {literal(name)}.{f' {EMBEDDED_WORLD}' * embedded}" for name, embedded in data_sets.items()
    )


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
        ValueError: if two results have the same row, column and seed in a table.
    """
    parts = sections(results)
    blocks = [data_lines(parts), LEGEND]
    for title, table in mean_tables(parts).items():
        blocks += [f"## {plain(title)}", table]
    kinds = ACCURACY_TABLES if accuracy_only else (*ACCURACY_TABLES, *OTHER_TABLES)
    for part in parts:
        if len(parts) > 1 or not accuracy_only:
            blocks.append(f"## {plain(part.title)}")
        blocks += [f"![{picture}]({picture})" for picture in pictures.get(part.title, ())]
        for title, table in (item for kind in kinds for item in kind(part).items()):
            blocks += [f"### {title}", table]
    return "\n\n".join(blocks) + "\n"
