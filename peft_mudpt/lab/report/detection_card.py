"""What the model card of a detector's adapter says in its own way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Optional

from ..detection.evaluation import MEASURES
from ..method import Method
from ..run_folder import EXAMPLES
from ..schema import RESULT
from ..terminal import printable
from .escaping import literal, plain
from .markdown import markdown_table


if TYPE_CHECKING:
    from huggingface_hub import EvalResult

LISTED_CLASSES = 100


def metadata(method: Method) -> dict[str, Any]:
    """
    Describe a detector's adapter in the card's metadata.

    Args:
        method: the method of the adapter.

    Returns:
        The fields that depend on the task.
    """
    return {
        "pipeline_tag": "zero-shot-object-detection",
        "tags": list(dict.fromkeys(["peft_mudpt", "grounding-dino", "few-shot", method.name])),
        "metrics": ["mean_average_precision"],
    }


def eval_results(result: dict[str, Any], dataset: str) -> list[EvalResult]:
    """
    List the average precisions for the card's metadata.

    Args:
        result: the result of the run.
        dataset: name of the data set.

    Returns:
        One entry for each test set and measure.
    """
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="object-detection",
            dataset_type=dataset,
            dataset_name=f"{dataset} ({printable(split)})",
            dataset_split=printable(split),
            metric_type="mean_average_precision" if measure == "map" else measure,
            metric_name=f"{name} (percent)",
            metric_value=round(metrics[measure], 2),
        )
        for split, metrics in result["metrics"].items()
        for measure, name in MEASURES.items()
    ]


def code(remembers_classes: bool, base_line: str, hub_model_id: Optional[str], revision: Optional[str]) -> str:
    """
    Write the code of the card.

    Args:
        remembers_classes: True if the adapter's config holds the classes; else the code reads them from the result.
        base_line: Python that defines `base`, the name of the detector.
        hub_model_id: id of the adapter on the Hub; None: the code loads "path/to/adapter".
        revision: the detector's revision on the Hub; None: the main branch.

    Returns:
        Python code that loads the adapter and prints what it finds in a picture.
    """
    imports, stored, classes = "", "", ""
    tag = "" if revision is None else f", base_revision={json.dumps(revision)}"
    if not remembers_classes:
        imports = "import json\n" + "from huggingface_hub import hf_hub_download\n" * (hub_model_id is not None)
        file = f'f"{{adapter}}/{RESULT}"' if hub_model_id is None else f'hf_hub_download(adapter, "{RESULT}")'
        stored = f"""\
with open({file}, encoding="utf-8") as file:
    class_names = json.load(file)["class_names"]
"""
        classes = ", class_names"
    return f"""\
from peft_mudpt.detection import FusionDetector
{imports}
{base_line}
adapter = {json.dumps(hub_model_id or "path/to/adapter")}
{stored}\
detector = FusionDetector.from_pretrained(adapter{classes}, base_model_name_or_path=base{tag})
found = detector.predict(["picture.jpg"], threshold=0.25)[0]
for name, score, box in zip(found.names, found.scores.tolist(), found.boxes.tolist()):
    print(f"{{score:.2f}} {{name}}: {{box}}")  # left, top, right and bottom in pixels"""


def sections(result: dict[str, Any]) -> list[str]:
    """
    Write what the card says of classes, average precision and pictures.

    Args:
        result: the result of the run.

    Returns:
        The sections, as Markdown.
    """
    return [_classes(result), _average_precision(result), f"![test pictures with boxes]({EXAMPLES})"]


def _classes(result: dict[str, Any]) -> str:
    names = result["class_names"]
    listed = ", ".join(map(literal, names[:LISTED_CLASSES]))
    more = f"The first {LISTED_CLASSES} of {len(names)}: " if len(names) > LISTED_CLASSES else ""
    return f"## Classes\n\n{more}{listed}"


def _average_precision(result: dict[str, Any]) -> str:
    blocks = [
        "## Average precision\n\nIn percent, by pycocotools. mAP is the mean over the overlaps 0.50, 0.55, ..., 0.95. "
        "Before is the same detector without the adapter."
    ]
    for split, after in result["metrics"].items():
        before = result["zero_shot"][split]
        numbers = [(name, before[measure], after[measure]) for measure, name in MEASURES.items()]
        classes = [(plain(name), before["classes"].get(name), value) for name, value in after["classes"].items()]
        rows = [[name, *map(_percent, values)] for name, *values in [*numbers, *classes[:LISTED_CLASSES]]]
        blocks.append(f"On {after['pictures']:,} {plain(split)} pictures:\n\n{_table(rows)}")
    return "\n\n".join(blocks)


def _table(rows: list[list[str]]) -> str:
    return markdown_table(["", "before", "after"], rows)


def _percent(value: Optional[float]) -> str:
    return "–" if value is None else f"{value:.1f}"
