"""Writes the model card of an adapter that the lab has trained."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import harmonic_mean, mean
from typing import TYPE_CHECKING, Any, Optional

from ... import demo
from ...classifier.class_texts import ClassTexts
from ...config import MuDPTConfig
from ..adversarial import levels, title_of
from ..intervals import interval_of
from ..method import DETECTION, Method
from ..methods import find_method
from ..protocols import number_of_pictures
from ..schema import RESULT
from ..terminal import printable
from . import detection_card
from .calibration import calibration_section
from .escaping import literal, plain
from .markdown import markdown_table
from .robustness import KNOWLEDGE
from .sections import task_of
from .shots import drawn_in_words


if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

LISTED_CLASSES = 100

CITATION = """\
@inproceedings{miao2023mudpt,
  title     = {MuDPT: Multi-modal Deep-symphysis Prompt Tuning for Large Pre-trained Vision-Language Models},
  author    = {Miao, Yongzhu and Li, Shasha and Tang, Jintao and Wang, Ting},
  booktitle = {IEEE International Conference on Multimedia and Expo (ICME)},
  year      = {2023},
  doi       = {10.1109/ICME55011.2023.00013}
}"""


def model_card(result: dict[str, Any], base_model: str, hub_model_id: Optional[str]) -> ModelCard:
    """
    Write the model card of an adapter. It is the content of README.md in the adapter's folder.

    Args:
        result: a result with the fields of `schema.FIELDS`; its method must have an adapter.
        base_model: Hub id or folder of the model. The card discloses only the name of a folder, never its path.
        hub_model_id: id of the adapter on the Hub; None: the code of the card loads "path/to/adapter".

    Returns:
        The card.

    Raises:
        ValueError: if the method has no adapter.
    """
    from huggingface_hub import ModelCard, ModelCardData

    task = task_of([result])
    method = find_method(result["method"], task)
    if not method.leaves_adapter:
        raise ValueError(f"Method {method.name!r} has no adapter that a model card could describe.")
    dataset = result["dataset"]
    if Path(dataset).is_absolute() or Path(dataset).is_dir():
        dataset = Path(dataset).resolve().name
    dataset = printable(dataset)
    detects = task == DETECTION
    base_id, base_words, base_line = _describe_base(base_model, detects)
    revision = result["arguments"].get("model_revision")
    eval_results = detection_card.eval_results(result, dataset) if detects else _eval_results(result, dataset)
    model_name = hub_model_id.split("/")[-1] if hub_model_id else f"{method.name}-{dataset}"
    metadata = ModelCardData(
        base_model=base_id,
        library_name="peft",
        **(detection_card.metadata(method) if detects else _metadata(method)),
        **(dict(model_name=model_name, eval_results=eval_results) if eval_results else {}),
    )
    if detects:
        code = detection_card.code(method.remembers_classes, base_line, hub_model_id, revision)
        measured = detection_card.sections(result)
    else:
        code = _code(base_line, hub_model_id, revision)
        calibration = calibration_section(result)
        measured = [_classes(result), _accuracies(result), *filter(None, [calibration]), *_robustness(result)]
    sections = [
        _introduction(method, result, dataset, base_words),
        f"## Use\n\n```python\n{code}\n```",
        *measured,
        _training(result),
        f"## Cite\n\npeft_mudpt is built around MuDPT:\n\n```bibtex\n{CITATION}\n```",
    ]
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _metadata(method: Method) -> dict[str, Any]:
    kind = ["mudpt"] if issubclass(method.adapter, MuDPTConfig) else []
    return {
        "pipeline_tag": "zero-shot-image-classification",
        "tags": list(dict.fromkeys(["peft_mudpt", *kind, "clip", "few-shot", method.name])),
        "metrics": ["accuracy"],
    }


def _describe_base(base_model: str, detects: bool) -> tuple[Optional[str], str, str]:
    """Return the model's id for the metadata (or None), a phrase that describes it, and Python that defines `base`."""
    embedded = "DETECTOR_PATH" if detects else "MODEL_PATH"
    what = "detector" if detects else "CLIP"
    if Path(base_model).resolve() == Path(getattr(demo, embedded)).resolve():
        return None, f"the tiny {what} embedded in peft_mudpt", f"from peft_mudpt.demo import {embedded} as base"
    if not Path(base_model).is_dir() and _is_hub_id(base_model):
        words = f"the {what} [{base_model}](https://huggingface.co/{base_model})"
        return base_model, words, f"base = {json.dumps(base_model)}"
    name = Path(base_model).resolve().name
    return name if _is_hub_id(name) else None, f"the {what} {literal(name)}", f"base = {json.dumps(f'path/to/{name}')}"


def _is_hub_id(name: str) -> bool:
    """True if the Hub accepts `name` as an id. The Hub refuses a card with a malformed id in its metadata."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _eval_results(result: dict[str, Any], dataset: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    def evaluated(metric: str, name: str, value: float, **fields) -> EvalResult:
        measure = dict(metric_type=metric, metric_name=f"{name} (percent)", metric_value=round(value, 2))
        return EvalResult(task_type="image-classification", **measure, **fields)

    results = []
    for test_set, metrics in result["metrics"].items():
        split = printable(test_set)
        on = dict(dataset_type=dataset, dataset_name=f"{dataset} ({split})", dataset_split=split)
        if "source" in result["summary"]:  # in transfer protocols each test set is another data set
            on = dict(dataset_type=split, dataset_name=split)
        if metrics is not None:
            results.append(evaluated("accuracy", "Accuracy", metrics["accuracy"], **on))
    both = result["summary"].get("harmonic_mean")
    if both is not None:
        on = dict(dataset_type=dataset, dataset_name=f"{dataset} (base and new)")
        results.append(evaluated("harmonic_mean", "Harmonic mean of base and new accuracy", both, **on))
    return results


def _introduction(method: Method, result: dict[str, Any], dataset: str, base: str) -> str:
    arguments = result["arguments"]
    paper = "" if method.paper is None else f", [arXiv {method.paper}](https://arxiv.org/abs/{method.paper})"
    text = (
        f"# {method.title} on {plain(dataset)}\n\n"
        f"An adapter for {base}, trained with peft_mudpt on a few pictures of each class.\n\n"
        f"- Method: {method.title} (`{method.name}`{paper})\n"
        f"- Data set: {plain(dataset)}, {len(result['class_names'])} classes\n"
        f"- Training pictures per class (shots): {drawn_in_words(result)}\n"
        f"- Seed: {arguments['seed']}\n"
        f"- Trainable parameters: {result['trainable_parameters']:,}"
    )
    detects = task_of([result]) == DETECTION
    if dataset in (demo.SCENE_STYLES if detects else demo.STYLES) and arguments.get("train_dir") is None:
        text += (
            f"\n\n`{dataset}` is a data set of drawn shapes that peft_mudpt ships. It shows that learning works. "
            f"Its numbers say nothing about {'detectors' if detects else 'CLIP'} on photographs."
        )
    return text


def _code(base_line: str, hub_model_id: Optional[str], revision: Optional[str]) -> str:
    """Python code that loads the adapter and prints the most probable classes of a picture."""
    tag = "" if revision is None else f", base_revision={json.dumps(revision)}"
    return f"""\
import peft_mudpt  # registers MuDPT with PEFT

{base_line}
adapter = {json.dumps(hub_model_id or "path/to/adapter")}
classifier = peft_mudpt.MuDPTClassifier.from_pretrained(adapter, base_model_name_or_path=base{tag})
for name, probability in classifier.top_k(["picture.jpg"])[0]:
    print(f"{{probability:.1%}} {{name}}")"""


def _classes(result: dict[str, Any]) -> str:
    names = result["class_names"]
    listed = ", ".join(map(literal, names[:LISTED_CLASSES]))
    more = f"The first {LISTED_CLASSES} of {len(names)}: " if len(names) > LISTED_CLASSES else ""
    adapted, plain_clip = result.get("class_texts"), result.get("zero_shot_texts")
    after_prompts, whole = result["template_after_prompts"], result["template"]
    return (
        f"## Classes\n\n{more}{listed}\n\nThe text of a class for the adapted model is "
        f"{_texts(adapted, after_prompts)}, in which the name replaces `{{}}`. Without the adapter it is "
        f"{_texts(plain_clip, whole)}."
    )


def _texts(several: Optional[dict[str, Any]], template: str) -> str:
    """The text of a class in words, or how many texts are averaged."""
    if several is None:
        return literal(template)
    return f"the mean over {literal(ClassTexts.given(**several).in_words())}"


def _accuracies(result: dict[str, Any]) -> str:
    adapted, zero_shot, summary = result["metrics"], result["zero_shot"] or {}, result["summary"]
    if not adapted:
        return "## Accuracy\n\nNot measured, because no picture was left for testing."
    rows = [_accuracy_row(name, metrics, zero_shot.get(name)) for name, metrics in adapted.items()]
    before = {name: metrics and metrics["accuracy"] for name, metrics in zero_shot.items()}
    if summary.get("harmonic_mean") is not None:
        both = [before.get("base"), before.get("new")]
        rows.append(
            _mean_row("harmonic mean", summary["harmonic_mean"], None if None in both else harmonic_mean(both))
        )
    if summary.get("mean_of_targets") is not None:
        targets = [before.get(name) for name in adapted if name != result["dataset"]]
        rows.append(
            _mean_row("mean of targets", summary["mean_of_targets"], None if None in targets else mean(targets))
        )
    header = [
        "test set",
        "pictures",
        "with the adapter",
        "zero-shot",
        "balanced, with the adapter",
        "balanced, zero-shot",
    ]
    return (
        f"## Accuracy\n\nMeasured on the {result['arguments'].get('evaluate_on', 'test')} pictures. Zero-shot is the "
        "same CLIP without the adapter. In parentheses: the 95 % interval of the accuracy on all pictures like these. "
        "Balanced is the mean of the classes' accuracies.\n\n"
        f"{markdown_table(header, rows)}"
    )


def _robustness(result: dict[str, Any]) -> list[str]:
    """The section on attacked test pictures; none if no picture was attacked."""
    rows = [
        [plain(name), title_of(attacked), str(attacked["attack"]["steps"])]
        + [f"{metrics['pictures']:,}", _percent(metrics["clean"]), _percent(metrics["attacked"])]
        for attacked in result.get("robustness") or []
        for name, metrics in attacked["metrics"].items()
        if metrics is not None
    ]
    header = ["test set", "attack", "steps", "pictures", "accuracy before", "accuracy after"]
    return [f"## Attacked pictures\n\n{KNOWLEDGE}\n\n{markdown_table(header, rows)}"] if rows else []


def _accuracy_row(name: str, adapted: Optional[dict[str, Any]], zero_shot: Optional[dict[str, Any]]) -> list[str]:
    number = number_of_pictures(adapted or zero_shot or {"classes": {}})
    both = (adapted, zero_shot)
    accuracies = [_accuracy_with_interval(metrics) for metrics in both]
    return [plain(name), f"{number:,}", *accuracies, *(_percent(m and m["mean_class_accuracy"]) for m in both)]


def _accuracy_with_interval(metrics: Optional[dict[str, Any]]) -> str:
    if metrics is None or not number_of_pictures(metrics):
        return _percent(metrics and metrics["accuracy"])
    low, high = interval_of(metrics)
    return f"{metrics['accuracy']:.1f} % ({low:.1f} to {high:.1f} %)"


def _mean_row(name: str, adapted: float, zero_shot: Optional[float]) -> list[str]:
    return [name, "", _percent(adapted), _percent(zero_shot), "", ""]


def _percent(value: Optional[float]) -> str:
    return "not measured" if value is None else f"{value:.1f} %"


def _training(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    return (
        f"## Training\n\n- Optimizer: {result['optimizer']}\n- Learning rate (peak): {result['learning_rate']}\n"
        f"{_beginning(result)}{_attack(result)}{_objective(result)}- Steps: {result['steps']:,}\n"
        f"- Versions: {versions}\n\n"
        f"`{RESULT}` holds all options, the drawn pictures and all metrics."
    )


def _beginning(result: dict[str, Any]) -> str:
    """A line on how the vision prompts started; empty if from random numbers."""
    method = result.get("prompt_initialization")
    return f"- Vision prompts: started from tokens of the training pictures (`{method}`)\n" if method else ""


def _attack(result: dict[str, Any]) -> str:
    """A line on the attack on the training pictures; empty if there was none."""
    if not (adversarial := result.get("adversarial")):
        return ""
    attack, weight = adversarial["attack"], adversarial["clean_weight"]
    return (
        f"- Training pictures: attacked by `{attack['objective']}`, eps {levels(attack['eps']):g}/255, "
        f"{attack['steps']} steps; clean ones have the weight {weight:g} in the loss\n"
    )


def _objective(result: dict[str, Any]) -> str:
    """Lines on the anchors in the loss, and on the average of the parameters; empty if there are none."""
    lines, anchors, averaging = "", result.get("anchors"), result.get("averaging")
    if anchors:
        kinds = {"text": f"text ({anchors['text_anchor']})", "image": "image", "logit": "logits"}
        weights = {words: anchors[f"{kind}_anchor_weight"] for kind, words in kinds.items()}
        listed = ", ".join(f"{words} {weight:g}" for words, weight in weights.items() if weight)
        lines += f"- Anchors to the frozen CLIP, by their weights in the loss: {listed}\n"
    if averaging:
        mean, std = averaging["mean"], averaging["std"]
        lines += f"- Parameters: averaged over the epochs by a Gaussian of mean {mean:g} and std {std:g} epochs\n"
    return lines
