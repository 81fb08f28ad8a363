"""Exports a classifier as one file that needs neither this package nor CLIP: images in, class probabilities out."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Optional, get_args

import torch
from torch.nn.functional import normalize

from ..classifier.classifier import MuDPTClassifier
from ..classifier.pictures import PICTURE_RULE
from ..classifier.prediction import PictureClassifier
from ..layer import layer_of
from ..library_warnings import without_known_warnings
from ..optional import require
from ..towers.domains import mixed_features
from ..towers.images import Images
from .folding import fold_adapter


ExportFormat = Literal["onnx", "torch_export"]


class _ImageClassifier(torch.nn.Module):
    """A classifier with fixed classes: the vision tower, and the linear layer that compares its features with them."""

    class_weights: torch.Tensor
    class_biases: Optional[torch.Tensor]

    def __init__(self, classifier: PictureClassifier):
        super().__init__()
        classifier = copy.deepcopy(classifier).cpu().float().eval()
        model, family = classifier.model, classifier.family
        layer = layer_of(model)
        if layer is not None and layer.num_tokens("vision"):
            fold_adapter(model)
        # only these modules are used; the hooks on the vision tower read the prompts
        self.vision = family.vision
        self.tower, *projections = family.vision.feature_parts(model)
        self.projections = torch.nn.ModuleList(projections)
        self.prompt_learner = layer
        with torch.no_grad():
            weights, biases = classifier.linear_head()
        self.register_buffer("class_weights", weights)  # (C, D)
        self.register_buffer("class_biases", biases)  # (C,)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        image_features = self.vision.pooled(self.tower(pixel_values=pixel_values))
        for projection in self.projections:
            image_features = projection(image_features)  # (B, D)
        logits = normalize(image_features, dim=-1) @ self.class_weights.t()  # (B, C)
        if self.class_biases is not None:
            logits = logits + self.class_biases
        return logits.softmax(dim=-1)


class _ClassifierOfDomains(torch.nn.Module):
    """A classifier with fixed classes whose text features each image mixes over the domains of the adapter."""

    domain_features: torch.Tensor

    def __init__(self, classifier: MuDPTClassifier):
        super().__init__()
        classifier = copy.deepcopy(classifier).cpu().float().eval()
        self.family, self.model = classifier.family, classifier.model
        with torch.no_grad():
            self.register_buffer("domain_features", classifier.domain_features())  # (K, C, D)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        images = Images(self.model)
        image_features = normalize(self.family.image_features(self.model, pixel_values, images), dim=-1)  # (B, D)
        assert images.domain_weights is not None, "the adapter has domains"
        class_features = mixed_features(images.domain_weights, self.domain_features)  # (B, C, D)
        cosines = torch.einsum("bd,bcd->bc", image_features, class_features)
        layer = layer_of(self.model)
        shift = None if layer is None else layer.logit_shift()
        return self.family.logits(self.model, cosines, shift).softmax(dim=-1)  # (B, C)


class _ClassifierOfTexts(torch.nn.Module):
    """A classifier with fixed classes whose texts are encoded again for each image: both towers of the CLIP."""

    def __init__(self, classifier: PictureClassifier):
        super().__init__()
        self.classifier = copy.deepcopy(classifier).cpu().float().eval()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.classifier(pixel_values).logits.softmax(dim=-1)  # (B, C)


def export_classifier(classifier: PictureClassifier, file: str | os.PathLike, format: ExportFormat = "onnx") -> Path:
    """
    Export a classifier with its classes as one file, in float32. The file is loaded once before it replaces an older
    one. An error leaves the older file as it was, and nothing else.

    The exported program takes `pixel_values` (B, 3, H, W) for any B, as the CLIP's image processor makes them, and
    returns `probabilities` (B, C). The file also contains `class_names` (JSON, in the order of the probabilities),
    `class_template` (not of a linear probe) or, if classes have several texts, `class_texts` (JSON, the texts of each
    class in the order of the probabilities), `picture_rule` (how to open a picture, in words) and
    `preprocessor_config` (JSON: the image processor's settings). An ONNX file has them in its metadata, a
    `torch.export` archive as extra files.

    The file holds the vision tower and one feature per class, or one per class and domain. If the text prompts of the
    active adapter depend on the image, it also holds the text tower, which the program runs on the texts of all
    classes for each image.

    ONNX holds at most 2 GB in one file. torch writes larger weights (above 1.5 GiB) to a second file, which has the
    name of the first and `.data`. Keep both in one folder.

    Args:
        classifier: the classifier, a `MuDPTClassifier` or a linear probe of the lab; the file contains the adapter
            that is active now.
        file: path of the new file, such as `classifier.onnx` or `classifier.pt2`.
        format: `onnx`, for onnxruntime and others (needs the extra `export`), or `torch_export`, for
            `torch.export.load` and AOTInductor.

    Returns:
        The path of the file.

    Raises:
        ValueError: if there is no such format, `file` is a folder, the CLIP takes images of any size (SigLIP 2
            NaFlex), or a file of the weights is in the way that belongs to no older `file`.
        ImportError: if the packages that write the format are not installed.
    """
    if format not in get_args(ExportFormat):
        raise ValueError(f"format={format!r} is unknown; it is one of {', '.join(get_args(ExportFormat))}.")
    if format == "onnx":
        require("format='onnx'", "export", "onnx", "onnxscript")
    file = Path(file)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the name of a file.")
    example = torch.zeros(2, *classifier.family.image_shape(classifier.model.config))
    notes = {
        "class_names": json.dumps(classifier.class_names),
        "picture_rule": PICTURE_RULE,
        "preprocessor_config": classifier.image_processor.to_json_string(),
    }
    if classifier.template is not None:
        notes["class_template"] = classifier.template
    elif classifier.class_texts is not None:
        notes["class_texts"] = json.dumps(classifier.class_texts)
    # in the folder that is there already, so that an error leaves no new one
    folder = next(parent for parent in file.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(dir=folder) as partial, torch.autocast("cpu", enabled=False):
        program = torch.export.export(
            _program(classifier),
            (example,),
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        )
        written = Path(partial) / file.name
        with without_known_warnings():
            {"onnx": _save_onnx, "torch_export": _save_torch_export}[format](program, written, notes)
        _replace(written, file)
    return file


def _program(classifier: PictureClassifier) -> torch.nn.Module:
    """The program that is exported, which takes pixel values (B, 3, H, W)."""
    layer = layer_of(classifier.model)
    if layer is not None and layer.text_depends_on_image:
        return _ClassifierOfTexts(classifier)
    if layer is not None and layer.num_domains and isinstance(classifier, MuDPTClassifier):
        return _ClassifierOfDomains(classifier)
    return _ImageClassifier(classifier)


def _weights_beside(file: Path) -> Path:
    """The second file of an ONNX file that is too large for one."""
    return file.with_name(f"{file.name}.data")


def _replace(written: Path, file: Path) -> None:
    """Move a written file, and its weights if they are beside it, to `file`, or leave what is there as it is."""
    new = [path for path in (_weights_beside(written), written) if path.exists()]
    old = [path for path in (_weights_beside(file), file) if path.exists()] if file.exists() else []
    in_the_way = [path for path in (file.with_name(path.name) for path in new) if path.exists() and path not in old]
    if in_the_way:
        raise ValueError(
            f"{in_the_way[0]} exists, but no {file.name} that it belongs to. Move it, or export elsewhere."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = Path(tempfile.mkdtemp(dir=written.parent))
    try:
        for path in old:
            os.replace(path, kept / path.name)
        for path in new:
            os.replace(path, file.with_name(path.name))
    except BaseException:
        for path in new:
            if not path.exists():
                file.with_name(path.name).unlink()
        for path in kept.iterdir():
            os.replace(path, file.with_name(path.name))
        raise


def _save_onnx(program: torch.export.ExportedProgram, file: Path, notes: dict[str, str]) -> None:
    onnx_program = torch.onnx.export(
        program,
        input_names=["pixel_values"],
        output_names=["probabilities"],
        dynamic_shapes={"pixel_values": {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    assert onnx_program is not None, "torch returns None only when it writes the file itself"
    onnx_program.model.metadata_props.update(notes)
    onnx_program.save(file, external_data=False)  # torch does not obey if the model is too large for one file
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    else:
        import onnx

        onnx.checker.check_model(file)


def _save_torch_export(program: torch.export.ExportedProgram, file: Path, notes: dict[str, str]) -> None:
    torch.export.save(program, file, extra_files=notes)
    torch.export.load(file)
