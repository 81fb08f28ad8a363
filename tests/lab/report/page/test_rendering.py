"""The page of results, as HTML. `test_in_a_browser.py` opens it."""

import base64
import hashlib
import html
import re
import sys

import pytest
from scipy.stats import binomtest

from peft_mudpt.lab.backbone import EMBEDDED
from peft_mudpt.lab.method import CLASSIFICATION
from peft_mudpt.lab.report.page.rendering import html_page
from peft_mudpt.lab.report.page.tested import CONFUSIONS_SHOWN, MISTAKES_SHOWN
from peft_mudpt.lab.report.plots import FIGURES
from peft_mudpt.lab.report.tables import markdown_report
from peft_mudpt.lab.report.verdict import verdict
from peft_mudpt.lab.schema import FOLDER, read_results
from tests.lab.report.made_results import counts, result
from tests.lab.report.made_run import made_run


PLOTS = ("overview.png", "accuracy_by_shots.png", "class_gains.png")  # the page leaves out the first


def text_of(page: str) -> str:
    """The words of a page, without its markup."""
    body = re.sub("<[^>]*>", " ", page.split("<body>")[1])
    return " ".join(html.unescape(body).split())


def page_of(*results) -> str:
    found = [{FOLDER: f"outputs/{i}", **one} for i, one in enumerate(results)]
    return html_page(found, {"dtd": {name: FIGURES[CLASSIFICATION][name](results) for name in PLOTS}})


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "run", tmp_path / "pictures")


def test_the_page_allows_a_browser_nothing_but_its_own_style_and_pictures(run):
    page = html_page(read_results(run), {})
    style = re.search("<style>(.*)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = html.unescape(re.search('Content-Security-Policy" content="([^"]*)"', page)[1])
    assert policy.startswith("default-src 'none'; img-src data:; ") and f"style-src 'sha256-{digest}'" in policy


def test_the_same_results_give_the_same_page(run):
    assert html_page(read_results(run), {}) == html_page(read_results(run), {})


def test_a_result_of_an_earlier_version_has_a_page_that_says_what_is_missing(tmp_path):
    page = text_of(page_of(result()))
    assert "9 of 10" in page and "7 of 10" in page
    assert page.count("This result lacks it, because an earlier version of peft_mudpt wrote it.") == 3


def test_pictures_that_are_gone_are_named_with_the_reason(run, tmp_path):
    (tmp_path / "pictures").rename(tmp_path / "moved")
    page = html_page(read_results(run), {})
    assert "<img" not in page
    words = text_of(page)
    assert "4 pictures are listed by name only, because the files are not where they were ." in words
    assert all(name in words for name in ("cat/test 2.png", "dog/test 1.png", "cow/1.png"))


def test_mistakes_without_pictures_stand_in_one_table(run):
    page = html_page(read_results(run), {}, with_pictures=False)
    assert 'class="cards"' not in page
    words = text_of(page)
    assert "picture labeled taken for probability dog/test 2.png dog cow 86.8 % dog/test 1.png dog cow" in words


def test_mistakes_that_are_named_beside_others_that_are_shown_are_folded(run, tmp_path):
    (tmp_path / "pictures" / "dog" / "test 1.png").unlink()
    page = html_page(read_results(run), {})
    assert "<details>\n<summary>The picture that is only named" in page and page.count("<li><figure>") == 3
    assert "dog/test 1.png dog cow" in text_of(page)


def test_a_mistake_whose_own_probability_is_unknown_is_listed_without_it(run):
    (one,) = read_results(run)
    for item in one["metrics"]["test"]["mistakes"]["dog"].values():
        item.pop("cow")
    words = text_of(html_page([one], {}, with_pictures=False))
    assert "dog/test 2.png dog cow –" in words


@pytest.mark.parametrize(
    "temperature, words", [(1.5, "are calibrated, at temperature 1.50."), (None, "are not calibrated.")]
)
def test_mistakes_say_whether_their_probabilities_are_calibrated(run, temperature, words):
    (one,) = read_results(run)
    one["metrics"]["test"]["mistakes_temperature"] = temperature
    assert words in text_of(html_page([one], {}, with_pictures=False))


def test_the_accuracy_stands_beside_its_interval(run):
    page = text_of(html_page(read_results(run), {}))
    low, high = (100 * end for end in binomtest(5, 9).proportion_ci(method="wilson"))
    assert f"5 of 9 test pictures; 95 % interval: {low:.1f} to {high:.1f} %" in page


def test_sets_that_hold_too_many_classes_are_said_to_be_of_little_use(run):
    (one,) = read_results(run)
    assert "is of little use" not in text_of(html_page([one], {}))
    one["metrics"]["test"]["calibration"]["sets"][0]["classes"] = 2.5  # of 3
    assert "A set that holds more than half of all classes is of little use." in text_of(html_page([one], {}))


def test_the_page_begins_with_the_verdict(run):
    (one,) = read_results(run)
    page = text_of(html_page([one], {}))
    assert page.index(verdict(one, "test")) < page.index("Accuracy 55.6 %")


def test_wrong_labels_are_only_looked_for_where_few_pictures_are_wrong(tmp_path):
    hint = "Look for wrong labels there."
    for wrong, expected in ((1, True), (2, False)):
        taken_for = {"cat": ["cat"] * (10 - wrong) + ["dog"] * wrong, "dog": ["dog"]}
        made = made_run(tmp_path / f"run {wrong}", tmp_path / "pictures", taken_for)
        page = text_of(html_page(read_results(made), {}))
        assert (hint in page) == expected and ("most will be mistakes of the model" in page) != expected


def test_mistakes_beyond_the_first_are_folded_with_their_pictures(tmp_path):
    made = made_run(tmp_path / "run", tmp_path / "pictures", {"cat": ["dog"] * (MISTAKES_SHOWN + 3), "dog": ["dog"]})
    shown, folded = html_page(read_results(made), {}).split("<summary>3 less certain mistakes</summary>")
    assert shown.count("<figcaption>\n<p>Labeled") == MISTAKES_SHOWN
    assert folded.count("<figcaption>\n<p>Labeled") == 3


def test_confusions_stand_below_the_matrix_and_the_rare_ones_are_folded(tmp_path):
    names = [f"class {i}" for i in range(CONFUSIONS_SHOWN + 3)]
    taken_for = {name: [names[0]] for name in names}
    words = text_of(html_page(read_results(made_run(tmp_path / "run", tmp_path / "pictures", taken_for)), {}))
    assert (
        words.index("In the matrix") < words.index("The most frequent confusions") < words.index("2 other confusions")
    )


def test_the_texts_of_classes_before_and_after_training_are_told_apart(run):
    (one,) = read_results(run)
    words = text_of(html_page([one], {}))
    assert "Text of a class before training a photo of a {}." in words
    assert "Text of a class after training learned prompts, then {}." in words
    same = text_of(html_page([{**one, "template_after_prompts": one["template"]}], {}))
    assert "Text of a class a photo of a {}." in same


def test_classes_of_which_not_all_training_pictures_are_shown_say_so(run, tmp_path):
    (tmp_path / "pictures" / "dog" / "0.png").unlink()
    words = text_of(html_page(read_results(run), {}))
    assert "dog (1 of 2 are shown)" in words and "cat (2)" in words


@pytest.mark.parametrize("model", [EMBEDDED, "some/clip"])
def test_the_embedded_clip_is_said_to_know_drawn_shapes_only(run, model):
    (one,) = read_results(run)
    one["arguments"]["model_name_or_path"] = model
    assert ("The embedded CLIP knows drawn shapes only" in text_of(html_page([one], {}))) == (model == EMBEDDED)


def test_pictures_that_others_may_not_see_are_named(run):
    page = html_page(read_results(run), {}, with_pictures=False)
    assert "<img" not in page and "cat/test 2.png" in page
    assert "4 pictures are listed by name only, because the page was asked to show none ." in text_of(page)


def test_a_run_without_test_pictures_has_a_page(run):
    one = {**read_results(run)[0], "metrics": {}, "zero_shot": {}, "summary": {"accuracy": None}}
    page = text_of(html_page([one], {}))
    assert "no picture was left for testing" in page and "6 training pictures" in page


def test_each_test_set_has_its_own_part(run):
    (one,) = read_results(run)
    metrics = {"base": one["metrics"]["test"], "new": counts(hen=3), "others": None}
    one |= {"metrics": metrics, "summary": {"base": 1.0, "new": 2.0, "harmonic_mean": 1.5}}
    page = html_page([one], {})
    ids = re.findall('id="([^"]*)"', page)
    assert len(ids) == len({*ids}) and {*re.findall('href="#([^"]*)"', page)} == {*ids}
    assert "Accuracy of each class : new" in text_of(page) and "3 of 10" in text_of(page)
    assert "others : not measured" in text_of(page)


def test_the_page_of_several_runs_holds_the_tables_and_plots_of_the_report():
    results = [result("mudpt", 80.0), result("coop", 70.0), result("coop", 60.0, seed=2)]
    page = page_of(*results)
    words = text_of(page)
    report = markdown_report([{FOLDER: "a", **one} for one in results], {})
    for line in filter(re.compile("[|#]").match, report.splitlines()):
        cells = [re.sub(r"[*`#]", "", cell).strip() for cell in line.split("|") if {*cell} - {"-"}]
        assert all(cell in words for cell in cells), line
    plots = re.findall('<img src="data:image/svg\\+xml;base64,([^"]*)" alt="Plot: ([a-z ]*)', page)
    assert [name for _, name in plots] == ["accuracy by shots", "class gains"]
    assert all(b"<svg" in base64.b64decode(content)[:1000] for content, _ in plots)
    assert "outputs/2" in words


@pytest.mark.parametrize("module", ["jinja2", "markdown_it"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(run, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"peft_mudpt\[report\]"):
        html_page(read_results(run), {})
