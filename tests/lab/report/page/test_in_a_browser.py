"""The page of results, opened from the disk in a real browser without a window."""

import pytest
from sklearn.metrics import confusion_matrix

from peft_mudpt.lab.report.page.rendering import html_page
from peft_mudpt.lab.report.plots import OVERVIEW, plot_overview
from peft_mudpt.lab.schema import FOLDER, read_results
from peft_mudpt.lab.terminal import printable
from tests.browser import PHONE, WIDE, opened, started_browser
from tests.lab.report.made_results import result
from tests.lab.report.made_run import CLASSES, TAKEN_FOR, made_run


HOSTILE = [
    "<script>document.title = 'run'; alert(1)</script>",
    "\"><img src=x onerror=alert(2)>'",
    "</style><svg onload=alert(3)>",
    "{{ 7 * 7 }}{% if %}",
    "[a link](javascript:alert(4)) ![](https://example.com/a.png) | `",
    "\u202egnp.\u05d7\u05ea\u05d5\u05dc",  # turns the direction of writing, and Hebrew
    "a very long name of a class without any space".replace(" ", "_") * 5,
]
# a path has no "/" in a name, and the file system allows 255 bytes for one
SAFE_TO_STORE = [name.replace("/", "\\")[:200] for name in HOSTILE]


@pytest.fixture(scope="module")
def browser():
    with started_browser() as browser:
        yield browser


def written(folder, results, figures=None):
    file = folder / "report.html"
    file.write_text(html_page(results, figures or {}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page_of_a_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return written(folder, read_results(made_run(folder / "run", folder / "pictures")))


@pytest.fixture(scope="module")
def page_of_hostile_names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    first, *others = SAFE_TO_STORE
    taken_for = {first: others, **{name: [name, first] for name in others}}
    run = made_run(folder / "run", folder / "pictures", taken_for, dataset=HOSTILE[0], template=f"{HOSTILE[1]} {{}}")
    return written(folder, read_results(run))


@pytest.fixture(scope="module")
def page_of_several_runs(tmp_path_factory):
    results = [result("mudpt", 80.0), result("coop", 70.0, seed=2, dataset=HOSTILE[4])]
    results = [{FOLDER: name, **one} for name, one in zip(HOSTILE, results)]
    figures = {one["dataset"]: {OVERVIEW: plot_overview([one])} for one in results}
    return written(tmp_path_factory.mktemp("several"), results, figures)


def rows_of(page, label):
    """The words of each row of a table, but the row of its header."""
    rows = page.locator(f'[aria-label="{label}"] tbody tr').all()
    return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]


@pytest.mark.parametrize("kind", ["page_of_a_run", "page_of_hostile_names", "page_of_several_runs"])
def test_a_page_opens_from_the_disk_without_errors_scripts_and_network(browser, kind, request):
    # without its policy, so that nothing but the page itself keeps a browser from running a name
    for bypass_csp in (False, True):
        with opened(browser, request.getfixturevalue(kind), bypass_csp=bypass_csp) as page:
            assert page.events == []
            assert page.evaluate("[document.scripts.length, document.styleSheets.length]") == [0, 1]
            assert page.evaluate("getComputedStyle(document.body).maxWidth") != "none"  # the style is allowed


def test_hostile_names_are_shown_as_text(browser, page_of_hostile_names):
    with opened(browser, page_of_hostile_names) as page:
        assert page.title() == page.locator("h1").inner_text() == HOSTILE[0]
        names = [row[0] for row in rows_of(page, "Accuracy of each class")]
        assert sorted(names) == sorted(map(printable, SAFE_TO_STORE))
        labeled = page.locator("figcaption strong").all_inner_texts()
        assert {*map(printable, SAFE_TO_STORE)} == {*labeled}
        assert all(address.startswith("data:") for address in page.evaluate("[...document.images].map(i => i.src)"))
        assert (
            page.evaluate("[...document.links].map(a => a.protocol)").count("file:")
            == len(page.locator("nav a").all())
            == page.evaluate("document.links.length")
        )


@pytest.mark.parametrize("kind", ["page_of_a_run", "page_of_hostile_names", "page_of_several_runs"])
def test_a_page_fits_on_a_telephone(browser, kind, request):
    with opened(browser, request.getfixturevalue(kind), viewport=PHONE) as page:
        for details in page.locator("summary").all():
            details.click()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", PHONE)], ids=["light", "dark"])
def test_a_page_is_accessible(browser, page_of_a_run, scheme, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    with opened(browser, page_of_a_run, scheme, viewport) as page:
        for details in page.locator("summary").all():
            details.click()
        found = axe.Axe().run(page).response
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_the_page_is_dark_if_the_reader_asks_for_it(browser, page_of_a_run):
    def brightness(scheme):
        with opened(browser, page_of_a_run, scheme) as page:
            colors = page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            return [sum(map(int, color.strip("rgb()").split(","))) / 3 for color in colors]

    (light_page, light_text), (dark_page, dark_text) = brightness("light"), brightness("dark")
    assert light_page > 200 > light_text and dark_page < 50 < dark_text


def test_the_tables_hold_the_numbers_of_the_result(browser, page_of_a_run):
    with opened(browser, page_of_a_run) as page:
        accuracies = rows_of(page, "Accuracy of each class")
        matrix = rows_of(page, "Confusion matrix")
        head = page.locator(".matrix thead th").all_inner_texts()[1:]
        numbers = page.locator("dd.number").all_inner_texts()
        sets = rows_of(page, "Sets of classes")
        mistakes = page.locator(".cards figcaption").all_inner_texts()
    assert [[name, right, accuracy] for name, _, right, accuracy, *_ in accuracies] == [
        ["dog", "1 of 3", "33.3 %"],
        ["cat", "2 of 4", "50.0 %"],
        ["cow", "2 of 2", "100.0 %"],
    ]
    true = [name for name, taken in TAKEN_FOR.items() for _ in taken]
    predicted = [other for taken in TAKEN_FOR.values() for other in taken]
    expected = confusion_matrix(true, predicted, labels=CLASSES).tolist()
    assert head == [row[0] for row in matrix] == CLASSES and [[*map(int, row[1:])] for row in matrix] == expected
    assert numbers == ["55.6 %", "61.1 %", "55.6 %", "12.5 %"]  # 5 of 9; the mean of 1/3, 1/2 and 1
    assert sets == [["90 %", "91.5 %", "1.25 of 3"]]
    assert len(mistakes) == 4  # the last of them is the surest: 50 + 49 * 3 / 4
    assert mistakes[0].split() == "Labeled dog Taken for cow cow 86.8 % dog 13.2 % dog/test 2.png".split()


def test_every_picture_is_shown_and_every_wrong_one_stands_beside_its_name(browser, page_of_a_run):
    with opened(browser, page_of_a_run) as page:
        widths = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
        cards = page.locator(".cards figure").all()
        beside = [(card.locator("img").get_attribute("alt"), card.locator(".file").inner_text()) for card in cards]
    assert widths == [40] * (4 + 6)  # mistakes, and training pictures
    assert all(alt == name for alt, name in beside) and len({*beside}) == 4
