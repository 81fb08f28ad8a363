"""Writes the predictions of many pictures to a file, part by part, so that a killed job goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, Optional

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from peft import PeftModel

from ..classifier.batches import in_ranges
from ..classifier.prediction import PictureClassifier
from .data.class_names import join_names
from .data.unlabeled import ParquetPictures, PictureFiles
from .differences import in_words
from .predicting import Prediction
from .question import Question
from .storage import PARTIAL, naming, read_json, write_json


PART_SIZE = 512  # pictures; at most so many are classified twice after a kill
PARTS_AT_ONCE = 64  # that are merged in memory, and are a row group of the output
PAUSE = 0.5  # seconds between two looks at the parts of other processes
CONFIDENCE, COVERAGE = "least confidence", "coverage"  # of what a job may depend on; each has a column
FORM = 1  # of the note and the parts; another one is another job
WRITERS = {".csv": pyarrow.csv.CSVWriter, ".parquet": pq.ParquetWriter}


class PredictionsFile:
    """
    A file of predictions: one row per picture, in the order of the pictures.

    While the job runs, each part of `PART_SIZE` pictures is a file in the folder `folder`. A part appears by a rename
    when it is complete, whichever process classified it. When all are there, they are merged into `output`, which
    appears by a rename, too. `note` tells which job the parts and the output belong to.

    The columns are `picture`, `error`, `class` and `probability`, then `class_2` and `probability_2` and so on up to
    the k-th class; `confident` and `set`, if they were asked for. A picture that could not be read has an `error`, and
    nothing else.

    Attributes:
        parts: the positions of the pictures in each part.

    Args:
        output: the file to write, which ends in .csv or .parquet.
        job: what the predictions depend on (see `describe_job`).

    Raises:
        ValueError: if `output` ends in something else, or is a folder.
    """

    def __init__(self, output: str | os.PathLike, job: dict[str, Any]):
        self.output = Path(output)
        if self.output.suffix.lower() not in WRITERS or self.output.is_dir():
            raise ValueError(f"--output {output} must be a file that ends in .csv or .parquet.")
        self.job = job
        self.folder = self.output.with_name(self.output.name + PARTIAL)
        self.note = self.output.with_name(self.output.name + ".json")
        self.parts = in_ranges(0, job["number of pictures"], PART_SIZE)
        self.schema = _schema(job)

    def claim(self, overwrite: bool = False) -> Optional[int]:
        """
        Make sure that the files there belong to this job, and note the job. The caller has locked `folder`.

        Args:
            overwrite: replace what belongs to another job.

        Returns:
            None; or if the output is finished, the number of its pictures that could not be read.

        Raises:
            ValueError: if there are files of another job, or an output that is not of any job.
        """
        there = read_json(self.note) if self.note.is_file() else {}
        same = there.get("job") == self.job
        if same and there.get("errors") is not None and self.output.is_file():
            self._drop_parts()
            return there["errors"]
        if not overwrite and there and not same:
            raise ValueError(
                f"{self.output} belongs to other predictions. {_differences(there.get('job'), self.job)}. Choose "
                "another --output, or replace it with --overwrite."
            )
        if not overwrite and self.output.exists():
            raise ValueError(
                f"{self.output} exists, and no {self.note.name} says that it is a file of predictions. Choose another "
                "--output, or replace it with --overwrite."
            )
        with naming(self.output):
            self.output.unlink(missing_ok=True)
        if not same:
            self._drop_parts()
        write_json(self.note, {"job": self.job, "errors": None})
        return None

    def missing(self, parts: Sequence[range]) -> list[range]:
        """Those of some parts that are not written yet."""
        return [part for part in parts if not self._is_complete(part)]

    def write(self, part: range, predictions: Sequence[Prediction]) -> None:
        """Write the predictions of a part."""
        file = self._file(part)
        with naming(file):
            partial = file.with_name(file.name + PARTIAL)
            pq.write_table(_table(predictions, self.schema), partial)
            os.replace(partial, file)

    def wait(self) -> None:
        """Wait until the other processes have written their parts."""
        missing = self.parts
        while missing := self.missing(missing):
            time.sleep(PAUSE)

    def merge(self) -> int:
        """
        Write the output from its parts, and delete them.

        Returns:
            The number of pictures that could not be read.
        """
        merged, errors = self.folder / f"merged{PARTIAL}", 0
        with naming(self.output):
            with WRITERS[self.output.suffix.lower()](merged, self.schema) as writer:
                for table in self._tables():
                    errors += len(table) - table["error"].null_count
                    writer.write_table(table)
            write_json(self.note, {"job": self.job, "errors": errors})
            os.replace(merged, self.output)
        self._drop_parts()
        return errors

    def _tables(self) -> Iterator[pa.Table]:
        for i in range(0, len(self.parts), PARTS_AT_ONCE):
            files = map(self._file, self.parts[i : i + PARTS_AT_ONCE])
            yield pa.concat_tables([pq.read_table(file, schema=self.schema) for file in files])

    def _file(self, part: range) -> Path:
        return self.folder / f"part-{part.start:012}.parquet"

    def _is_complete(self, part: range) -> bool:
        try:  # a machine that loses its power can leave a file that was renamed, but is cut
            return pq.read_metadata(self._file(part)).num_rows == len(part)
        except (OSError, pa.ArrowInvalid):
            return False

    def _drop_parts(self) -> None:
        for file in (*self.folder.glob("part-*.parquet*"), self.folder / f"merged{PARTIAL}"):
            with naming(file):
                file.unlink(missing_ok=True)


def describe_job(
    classifier: PictureClassifier, pictures: PictureFiles | ParquetPictures, question: Question
) -> dict[str, Any]:
    """
    Describe what predictions depend on. The number of processes, the batch size and the device do not belong to it,
    because they change the last digits at most.

    Args:
        classifier: the classifier.
        pictures: the pictures.
        question: what is asked about each picture.

    Returns:
        The values by names that a user understands, in JSON.
    """
    return {
        "form": FORM,
        "weights of the adapter or CLIP": _fingerprint(classifier),
        "options of the adapter": _options(classifier.model),
        "image processor": json.loads(classifier.image_processor.to_json_string()),
        "classes": list(classifier.class_names),
        "texts": [list(texts) for texts in classifier.class_texts or ()],
        "classes per picture": min(question.k, len(classifier.class_names)),
        "number of pictures": len(pictures),
        "pictures": pictures.fingerprint(),
        **_of_calibration(classifier, question),
    }


def _of_calibration(classifier: PictureClassifier, question: Question) -> dict[str, Any]:
    """What predictions depend on because of the calibration; whether they are calibrated is said in any case."""
    temperature, scores = question.temperature(classifier), None
    if question.coverage is not None:
        assert classifier.calibration is not None, "the question was checked"
        scores = hashlib.sha256(json.dumps(classifier.calibration.as_dict()["scores"]).encode()).hexdigest()
    asked = {
        "calibrated": temperature is not None,
        "temperature": temperature,
        CONFIDENCE: question.min_confidence,
        COVERAGE: question.coverage,
        "coverage per class": question.per_class or None,
        "scores of the calibration": scores,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _schema(job: dict[str, Any]) -> pa.Schema:
    fields = [("picture", pa.string()), ("error", pa.string())]
    for rank in range(1, job["classes per picture"] + 1):
        fields += [(f"{name}_{rank}" if rank > 1 else name, kind) for name, kind in _RANKED]
    fields += [("confident", pa.bool_())] if CONFIDENCE in job else []
    fields += [("set", pa.string())] if COVERAGE in job else []
    return pa.schema(fields)


_RANKED = (("class", pa.string()), ("probability", pa.float32()))


def _table(predictions: Sequence[Prediction], schema: pa.Schema) -> pa.Table:
    rows = []
    for picture, error, answer in predictions:
        if answer is None:
            rows.append([picture, error, *[None] * (len(schema) - 2)])
            continue
        ranked = [value for pair in answer.best for value in pair]
        asked = [] if answer.is_confident is None else [answer.is_confident]
        asked += [] if answer.classes is None else [join_names(answer.classes)]
        rows.append([picture, error, *ranked, *asked])
    return pa.table(list(map(list, zip(*rows))), schema=schema)


def _fingerprint(classifier: PictureClassifier) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _options(model: Any) -> dict[str, Any]:
    """The options of the active adapter that its results depend on; none of a model without an adapter."""
    if not isinstance(model, PeftModel):
        return {}
    options = model.active_peft_config.to_dict()
    for unused in ("base_model_name_or_path", "revision", "inference_mode", "calibration"):
        options.pop(unused, None)
    return json.loads(
        json.dumps(options, default=lambda value: sorted(map(str, value)) if isinstance(value, set) else str(value))
    )


def _differences(there: Any, now: dict[str, Any]) -> str:
    there = there if isinstance(there, dict) else {}
    return "; ".join(
        f"{name}: {in_words(there.get(name), short_repr)} there, {in_words(value, short_repr)} here"
        for name, value in {**dict.fromkeys(there), **now}.items()
        if there.get(name) != value
    )
