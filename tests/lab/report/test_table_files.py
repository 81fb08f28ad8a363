"""The files of accuracies for other programs."""

import csv

from peft_mudpt.lab.report.table_files import csv_table, latex_tables
from tests.lab.report.made_results import base_to_new, result


RUNS = [
    *(result("coop", 60.0 + seed, seed=seed) for seed in (1, 2)),
    *(result("mudpt", 70.0 + seed, seed=seed) for seed in (1, 2)),
    result("linear_probe", 50.0),
]


def lines_of(results) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_table(results).splitlines()))


def test_each_number_of_the_tables_is_a_line():
    lines = lines_of(RUNS)
    assert {(line["method"], line["seed"], line["percent"]) for line in lines} == {
        ("coop", "1", "61.0"),
        ("coop", "2", "62.0"),
        ("mudpt", "1", "71.0"),
        ("mudpt", "2", "72.0"),
        ("linear_probe", "1", "50.0"),
    }
    assert {(line["dataset"], line["model"], line["column"]) for line in lines} == {("dtd", "some/clip", "4")}


def test_what_a_method_cannot_name_is_empty():
    lines = lines_of([base_to_new("linear_probe", 90.0, None, None)])
    assert {line["column"]: line["percent"] for line in lines} == {"base": "90.0", "new": "", "harmonic mean": ""}


def test_a_table_for_latex_holds_the_cells_of_the_report():
    rows = [line.strip(" \\") for line in latex_tables(RUNS).splitlines() if "&" in line]
    assert rows == [
        "& 4",
        r"mudpt & \textbf{71.5 ± 0.7}",
        "coop & 61.5 ± 0.7",
        "linear_probe (1 of 2 seeds) & 50.0".replace("_", r"\_"),
    ]


def test_names_are_text_and_no_commands():
    run = result(dataset="a & b_{1} $x$ 100 %\n\\input{x}", protocol="cross-dataset", summary={"source": 50.0})
    run["metrics"] = {r"\input{y}": run["metrics"]["test"]}
    lines = [line for line in latex_tables([run]).splitlines() if not line.startswith("%")]
    assert not any(r"\input" in line for line in lines)
    assert r"\textbackslash input\{y\}" in "\n".join(lines).replace(r"\textbackslash  ", r"\textbackslash ")
