"""Warnings of libraries about each other, on which neither a user nor this package can act."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


KNOWN_WARNINGS = (
    # PEFT 0.21 asks whether layers are checkpointed, by a name that transformers 5.24 deprecates
    "`is_gradient_checkpointing` is deprecated",
    # torch copies what it exports to ONNX with a class of its own that it deprecates
    ".*LeafSpec",
)
KNOWN_RECORDS = {  # the first words of a record, by the name of its logger
    # torch skips these operators, of which no model of this package has any
    "torch.onnx._internal.exporter._registration": "torchvision is not installed. Skipping",
    # onnxscript computes less in advance; the file is right
    "onnxscript.optimizer._constant_folding": "Skipping constant folding for op",
}


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Hide these warnings and records, and no others, while libraries are called that cause them."""
    loggers = [logging.getLogger(name) for name in KNOWN_RECORDS]
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message, FutureWarning)
        for logger in loggers:
            logger.addFilter(_is_unknown)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_unknown)


def _is_unknown(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(KNOWN_RECORDS[record.name])
