"""What the page of one run of classification shows, as values for the template "run.html"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from ...backbone import EMBEDDED, FOR_PHOTOGRAPHS, KNOWS_SHAPES_ONLY
from ...class_texts import after_prompts_in_words
from ...methods import methods_of_all_tasks
from ...run_pictures import RunPictures
from ...schema import FOLDER
from ..sections import Result, Section, sections
from ..shots import drawn_in_words
from ..tables import WORLDS
from .drawn import drawn_values
from .tested import tested_values


MISTAKES_SHOWN, DRAWN_SHOWN = 60, 120  # pictures of each test set, and training pictures


def run_values(result: Result, with_pictures: bool = True) -> dict[str, Any]:
    """
    Collect what the page of a run shows. The pictures that are still where they were are read.

    Args:
        result: a result of classification, as from `read_results`.
        with_pictures: False to name pictures, and to show none.

    Returns:
        The values.
    """
    (part,) = sections([result])
    method = methods_of_all_tasks().get(result["method"])
    pictures = RunPictures(Path(result[FOLDER]), result["dataset"])
    names = [name for name, metrics in result["metrics"].items() if metrics is not None]
    return {
        "title": part.title,
        "method": result["method"] if method is None else method.title,
        "is_trained": method is None or method.is_trained,
        "model": "the tiny CLIP embedded in peft_mudpt" if part.model == EMBEDDED else part.model,
        "classes": len(result["class_names"]),
        "caveat": _caveat(part),
        "tests": [
            tested_values(result, name, pictures, MISTAKES_SHOWN * with_pictures, f"test-{i}", len(names) > 1)
            for i, name in enumerate(names)
        ],
        "untested": [name for name, metrics in result["metrics"].items() if metrics is None],
        "drawn": drawn_values(result, pictures, DRAWN_SHOWN * with_pictures),
        "facts": dict(_facts(result)),
    }


def _caveat(part: Section) -> Optional[str]:
    """What the page warns of if the CLIP is the embedded one; None if it is another."""
    if part.embedded:
        return WORLDS[part.task]
    if part.model != EMBEDDED:
        return None
    return f"{KNOWS_SHAPES_ONLY}; photographs need another one, such as {FOR_PHOTOGRAPHS}."


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    """How a run was made, as terms and values."""
    arguments, hardware, loss = result["arguments"], result["hardware"], result["loss"]
    facts = {
        "Method": result["method"],
        "Options of the method": arguments["method_kwargs"],
        "CLIP": arguments["model_name_or_path"],
        **_texts(result["template"], result["template_after_prompts"]),
        "Protocol": arguments["protocol"],
        "Training pictures per class (shots)": drawn_in_words(result),
        "Seed": arguments["seed"],
        "Optimizer": result["optimizer"],
        "Learning rate, peak": result["learning_rate"],
        "Optimizer steps": f"{result['steps']:,}",
        "Training loss at the end": loss if loss is None else f"{loss:.3f}",
        "Trainable parameters": f"{result['trainable_parameters']:,}",
        "File of the weights": f"{result['adapter_bytes'] / 1000:,.0f} KB",
        "Training time": f"{result['seconds']['training']:,.0f} s",
        "Peak memory": f"{result['peak_memory_bytes'] / 1e6:,.0f} MB",
        "Hardware": ", ".join(f"{name} {value}" for name, value in hardware.items() if value is not None),
        "Versions": ", ".join(f"{package} {version}" for package, version in result["versions"].items()),
    }
    return ((term, str(value)) for term, value in facts.items() if value not in (None, ""))


def _texts(whole: Optional[str], after_prompts: Optional[str]) -> dict[str, str]:
    """The text of a class before and after training, with `{}` for its name; one fact if it is the same."""
    before = whole or "several texts, which result.json holds"
    if after_prompts in (None, whole):
        return {"Text of a class": before}
    return {
        "Text of a class before training": before,
        "Text of a class after training": after_prompts_in_words(after_prompts),
    }
