"""examples/report.py, as a user calls it."""

import re
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from peft_mudpt.lab.report.page.rendering import html_page
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.report.writing import picture_folders, write_report
from peft_mudpt.lab.schema import read_results, write_result
from tests.lab.report.made_results import cells, result
from tests.lab.report.made_run import made_run


@pytest.fixture
def run(run_script):
    return partial(run_script, "report.py")


def write(folder: Path, *results) -> Path:
    for i, content in enumerate(results):
        write_result(folder / str(i), content)
    return folder


def test_the_script_writes_the_report_with_its_plots(run, tmp_path):
    done = run(write(tmp_path, result(dataset="faded")), "--picture", tmp_path / "docs" / "look.png")
    assert done.code == 0, done.stderr
    assert done.stdout == markdown_report([result(dataset="faded")], pictures={})
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[.+?\]\((.+?)\)", text)
    assert "overview.png" in linked
    tables = {"accuracies.csv", "accuracies.tex"}
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.md", *tables, *linked}
    for path in [*(tmp_path / "report" / name for name in linked), tmp_path / "docs" / "look.png"]:
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width >= 600 and len(picture.getcolors(2**20)) > 50


def test_the_script_also_writes_a_page_to_open_in_a_browser(run, tmp_path):
    folder = made_run(tmp_path / "run", tmp_path / "pictures")
    done = run(folder, "--html", "--no_pictures")
    page = folder / "report" / "report.html"
    assert done.code == 0 and done.stdout.splitlines()[-1] == f"Open {page} in a browser."
    assert "### Accuracy of each class" in done.stdout and "### Cost" not in done.stdout
    assert "### Cost" in (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") == html_page(read_results(folder), {}, with_pictures=False)


def test_a_page_that_the_script_did_not_write_is_kept(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match="report.html"):
        write_report([result()], {}, tmp_path, page="new")
    assert (tmp_path / "report.html").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_pictures_cannot_be_left_out_where_none_are_shown(run, tmp_path):
    done = run(write(tmp_path, result()), "--no_pictures")
    assert done.code == 2 and "--no_pictures needs --html" in done.stderr and not (tmp_path / "report").exists()


def test_plots_stay_in_the_output_folder_whatever_the_name_of_a_data_set_is(run, tmp_path):
    folder = write(tmp_path / "results", result(dataset=".."), result(dataset="/a/../b"))
    done = run(folder, "--output_dir", tmp_path / "out")
    assert done.code == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"results", "out"}
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {"", ".md", ".csv", ".tex"}  # "": folders


def test_plots_are_also_written_in_a_format_for_papers(run, tmp_path):
    folder = write(tmp_path, result(dataset="dtd"), result(dataset="ucf101"))
    assert run(folder, "--output_dir", tmp_path / "out", "--figure_format", "pdf").code == 0
    assert (tmp_path / "out" / "all-data-sets" / "accuracy_by_data_set.pdf").is_file()
    assert "pdf" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert run(folder, "--figure_format", "bmp").code == 2


def test_several_data_sets_have_separate_folders_of_plots(run, tmp_path):
    folder = write(tmp_path, result(dataset="dtd"), result(dataset="ucf101"))
    assert run(folder, "--output_dir", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "ucf101" / "overview.png").is_file()
    assert "(ucf101/overview.png)" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "names", [("my pets", "my-pets"), ("Pets", "pets"), ("a/b", "a b", "a-b-2"), ("x" * 300, "x" * 301)]
)
def test_each_data_set_has_its_own_folder_of_plots_however_similar_the_names(names):
    folders = picture_folders(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert all(re.fullmatch(r"[\w-]{1,110}/", folder) for folder in folders.values())


def test_only_an_earlier_report_is_overwritten(run, tmp_path):
    folder = write(tmp_path / "results", result())
    assert run(folder, "--output_dir", tmp_path / "out").code == 0
    assert run(folder, "--output_dir", tmp_path / "out").code == 0
    for name in ("report.md", "overview.png"):
        mine = tmp_path / f"mine-{name}" / name
        mine.parent.mkdir()
        mine.write_text("mine")
        done = run(folder, "--output_dir", mine.parent)
        assert done.code == 2 and name in done.stderr
        assert mine.read_text() == "mine" and len(list(mine.parent.iterdir())) == 1


def test_two_results_of_one_cell_are_named_in_one_line(run, tmp_path):
    done = run(write(tmp_path, result(), result()))
    assert done.code == 2 and done.stderr.startswith("report.py: error: ") and done.stderr.count("\n") == 1
    assert str(tmp_path / "0") in done.stderr and str(tmp_path / "1") in done.stderr


def test_published_numbers_are_printed_only_with_the_flag_and_marked_as_not_reproduced(run, tmp_path):
    folder = write(tmp_path, result())
    published, plain = run(folder, "--published").stdout, run(folder).stdout
    assert "not reproduced here" in published and "not reproduced" not in plain
    assert cells(published, "Base to new: 16 shots")[6][:4] == ["MaPLe", "82.28", "75.14", "78.55"]
    assert "≈83.0" in published and "peft-mudpt compare --coop_root DIR" in published


@pytest.mark.parametrize("flag", [[], ["--picture", "look.png"]])
def test_a_folder_without_results_is_refused(run, tmp_path, flag):
    done = run(tmp_path, *flag)
    assert done.code == 2 and "result.json" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_overview_of_several_data_sets_is_refused_before_anything_is_written(run, tmp_path):
    folder = write(tmp_path / "runs", result(dataset="dtd"), result(dataset="ucf101"))
    done = run(folder, "--picture", tmp_path / "look.png")
    assert done.code == 2 and "--picture" in done.stderr and "dtd, ucf101" in done.stderr
    assert not (folder / "report").exists() and not (tmp_path / "look.png").exists()


@pytest.mark.parametrize(("package", "flags"), [("matplotlib", []), ("jinja2", ["--html"])])
def test_a_missing_package_is_named_before_anything_is_printed_or_written(run, tmp_path, monkeypatch, package, flags):
    folder = write(tmp_path, result())
    monkeypatch.setitem(sys.modules, package, None)
    done = run(folder, *flags)
    assert done.code == 2 and f'needs {package}: pip install "peft_mudpt[report]"' in done.stderr
    assert done.stdout == "" and not (folder / "report").exists()


def test_the_script_compares_rows_with_a_reference(run, tmp_path):
    made = [result("ivlp", 60.0), result("mudpt", 61.0)]
    done = run(write(tmp_path, *made), "--brief", "--paired", "ivlp")
    assert done.code == 0 and done.stdout == markdown_report(made, {}, accuracy_only=True, paired=["ivlp"])
    assert "| mudpt | +1.0 |" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert run(tmp_path, "--paired", "nothing").code == 2
