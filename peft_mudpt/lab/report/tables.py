"""Markdown tables of the results of experiments, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..method import CLASSIFICATION, DETECTION
from ..protocols import PROTOCOLS
from .calibration import calibration_tables
from .detection import MAIN_TITLES, detection_tables
from .escaping import literal, plain
from .markdown import accuracy_table, cost_table, difference_table, learning_rate_table, nearest_words_table
from .paired import check_reference, differences, on_the_same_pictures
from .precision import precision_tables
from .robustness import robustness_tables
from .rows import (
    Rows,
    asked_otherwise,
    base_to_new_rows,
    few_shot_rows,
    learning_rate_rows,
    mean_over_data_sets,
    row_name,
    runs_of,
    transfer_rows,
)
from .sections import Result, Section, parts_of_models, sections
from .shots import has_fewer, shots_in_words
from .single_run import single_run_blocks


EMBEDDED_WORLD = (
    "This is the embedded world of drawn shapes and a tiny {}. It shows that learning works, and says nothing about "
    "{} on photographs."
)
WORLDS = {
    CLASSIFICATION: EMBEDDED_WORLD.format("CLIP", "CLIP"),
    DETECTION: EMBEDDED_WORLD.format("detector", "detectors"),
}
FEW_SHOT = "Few-shot: all classes, by shots per class"
LEGEND = (
    "Bold: the best mean of a column. The row with the best mean in the last column stands first. –: the method "
    "cannot name these classes, or has no such value. Empty: not run. Harmonic means are computed for each run and "
    "then averaged. If learning rates were searched, the search used the first seed, the most shots and validation "
    "pictures of the training classes; all runs use the best rate."
)


def accuracy_tables(section: Section) -> dict[str, str]:
    """
    Make the tables of accuracy, one for each protocol; except for few-shot, one for each number of shots too.

    Args:
        section: the results of one model on one data set.

    Returns:
        The tables by title; an empty dict if there are no results.
    """
    measure = MAIN_TITLES[section.task]
    found = rows_by_title(section).items()
    tables = {title: accuracy_table(rows, measure) + _unlike(results) for title, (rows, results) in found}
    if FEW_SHOT in tables:
        tables[FEW_SHOT] += _fewer(section.results)
    return tables


def rows_by_title(section: Section) -> dict[str, tuple[Rows, list[Result]]]:
    """
    Collect the rows of the tables of accuracy.

    Args:
        section: the results of one model on one data set.

    Returns:
        The rows of each table, and the results in it, by title.
    """
    few_shot = [result for members in runs_of(section.results, "few-shot").values() for result in members]
    tables = {FEW_SHOT: (few_shot_rows(few_shot), few_shot)} if few_shot else {}
    for protocol in PROTOCOLS[1:]:
        rows_of = base_to_new_rows if protocol == "base-to-new" else transfer_rows
        for compared in runs_of(section.results, protocol).values():
            tables[f"{protocol.capitalize()}, {shots_in_words(compared)}"] = rows_of(compared), compared
    return tables


def _unlike(results: Iterable[Result]) -> str:
    """A warning to append to a table if its runs differ in options that the table does not show; otherwise empty."""
    options = [f"{name} ({plain(', '.join(map(str, values)))})" for name, values in asked_otherwise(results).items()]
    return f"\n\nThe rows differ in other options: {'; '.join(options)}." if options else ""


def _fewer(results: Iterable[Result]) -> str:
    """A note to append to a table whose columns are shots, if some classes had fewer pictures; otherwise empty."""
    shots = [str(shots) for shots, compared in runs_of(results, "few-shot").items() if has_fewer(compared)]
    return f"\n\nSome classes had fewer pictures than {' and '.join(shots)} shots: all were used." if shots else ""


def paired_tables(section: Section, reference: str) -> dict[str, str]:
    """
    Make the tables of the differences between each row and a reference row, one for each table of accuracy.

    Args:
        section: the results of one model on one data set.
        reference: name of the reference row.

    Returns:
        The tables by title; an empty dict if no other row can be compared.
    """
    same, other = on_the_same_pictures(section.results, reference)
    names = ", ".join(dict.fromkeys(f"{row_name(r)} (seed {r['arguments']['seed']})" for r in other))
    note = f"\n\nLeft out, because they used other pictures: {plain(names)}." if other else ""
    tables = {}
    for title, (rows, _) in rows_by_title(section._replace(results=same)).items():
        if found := differences(rows, reference):
            tables[_paired_title(title, reference)] = (
                difference_table(found, reference, MAIN_TITLES[section.task]) + note
            )
    return tables


def _paired_title(title: str, reference: str) -> str:
    return f"{title}: difference to {plain(reference)}"


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
            compared = by_shots[max(by_shots)]
            return {f"Cost: {protocol}, {shots_in_words(compared)}": cost_table(compared)}
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
        for results in runs_of(section.results, protocol, "validation").values():
            rows = learning_rate_rows(results)
            if rows:
                measure = {CLASSIFICATION: "accuracy"}.get(section.task, MAIN_TITLES[section.task])
                title = f"Learning rates, on validation pictures: {protocol}, {shots_in_words(results)}"
                tables[title] = learning_rate_table(rows, measure)
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
ACCURACY_TABLES = (accuracy_tables, robustness_tables, detection_tables)
OTHER_TABLES = (precision_tables, calibration_tables, cost_tables, nearest_words_tables, learning_rate_tables)


def mean_tables(parts: Sequence[Section], paired: Sequence[str] = ()) -> dict[str, str]:
    """
    Make the tables of few-shot and base-to-new accuracy averaged over data sets, for each model with results on
    several data sets.

    Args:
        parts: the results of each model on each data set.
        paired: names of rows; for each, a table holds the differences between it and the other rows.

    Returns:
        The tables by title.
    """
    tables = {}
    for of_model, suffix, task in parts_of_models(parts):
        for title, (rows, note) in mean_rows([part.results for part in of_model]).items():
            tables[title + suffix] = accuracy_table(rows, MAIN_TITLES[task]) + note
        for reference in paired:
            same = [on_the_same_pictures(part.results, reference)[0] for part in of_model]
            for title, (rows, note) in mean_rows(same).items():
                if found := differences(rows, reference):
                    table = difference_table(found, reference, MAIN_TITLES[task])
                    tables[_paired_title(title + suffix, reference)] = table + note
    return tables


def mean_rows(by_data_set: Sequence[list[Result]]) -> dict[str, tuple[Rows, str]]:
    """
    Average the rows of tables of accuracy over data sets.

    Args:
        by_data_set: the results of one model on each data set.

    Returns:
        The rows of each mean, and a note on the rows that are left out, by title.
    """
    shots = sorted({shots for results in by_data_set for shots in runs_of(results, "base-to-new")})
    kinds = {"Few-shot": [few_shot_rows(results) for results in by_data_set]}
    for k in shots:
        found = [runs_of(results, "base-to-new").get(k, []) for results in by_data_set]
        shown = shots_in_words(result for results in found for result in results)
        kinds[f"Base-to-new, {shown}"] = [base_to_new_rows(results) for results in found]
    means = {}
    for kind, tables in kinds.items():
        tables = [rows for rows in tables if rows]
        rows = mean_over_data_sets(tables) if len(tables) > 1 else {}
        if rows:
            left_out = ", ".join(sorted({name for some in tables for name in some} - rows.keys()))
            note = f"\n\nLeft out, because not run on all data sets: {plain(left_out)}." if left_out else ""
            means[f"{kind}: mean over {len(tables)} data sets"] = rows, note
    return means


def data_lines(parts: Sequence[Section]) -> str:
    """
    Name the data sets. If the package itself draws the pictures of a data set, add the caveat `EMBEDDED_WORLD`.

    Args:
        parts: the results of each model on each data set.

    Returns:
        One paragraph for each data set.
    """
    data_sets = {(part.dataset, part.task): f" {WORLDS[part.task]}" * part.embedded for part in parts}
    return "\n\n".join(dict.fromkeys(f"Data: {literal(name)}.{caveat}" for (name, _), caveat in data_sets.items()))


def _titled(tables: Iterable[Mapping[str, str]]) -> list[str]:
    return [block for by_title in tables for title, table in by_title.items() for block in (f"### {title}", table)]


def _image(picture: str) -> str:
    return f"![{picture}]({picture})"


def markdown_report(
    results: Sequence[Result],
    pictures: Mapping[str, Sequence[str]],
    accuracy_only: bool = False,
    paired: Sequence[str] = (),
    tables_only: bool = False,
) -> str:
    """
    Write the report of results. That of a single run of classification begins with what it has reached.

    Args:
        results: as from `read_results`.
        pictures: paths of plots to show, relative to the report, by the title of their section, in which they follow
            the tables of accuracy. Those of no section stand first.
        accuracy_only: True to leave out costs, nearest words and the learning rate search.
        paired: names of rows; for each, a table holds the differences between it and the other rows.
        tables_only: True to leave out what a single run has reached.

    Returns:
        The report, as Markdown.

    Raises:
        ValueError: if two results have the same row, column and seed in a table, or if no row has a name in `paired`.
    """
    for reference in paired:
        check_reference(results, reference)
    parts = sections(results)
    reached = [] if tables_only else single_run_blocks(results)
    blocks = [data_lines(parts), *reached, *(["## Tables to compare runs"] if reached else []), LEGEND]
    titles = {part.title for part in parts}
    blocks += [_image(picture) for title, of_all in pictures.items() if title not in titles for picture in of_all]
    for title, table in mean_tables(parts, paired).items():
        blocks += [f"## {plain(title)}", table]
    for part in parts:
        if len(parts) > 1 or not accuracy_only:
            blocks.append(f"## {plain(part.title)}")
        blocks += _titled(kind(part) for kind in ACCURACY_TABLES)
        blocks += map(_image, pictures.get(part.title, ()))
        blocks += _titled(paired_tables(part, reference) for reference in paired)
        blocks += [] if accuracy_only else _titled(kind(part) for kind in OTHER_TABLES)
    return "\n\n".join(blocks) + "\n"
