"""Warnings of libraries about each other."""

import logging
import warnings

import pytest

from peft_mudpt.library_warnings import KNOWN_RECORDS, without_known_warnings


def test_known_warnings_are_hidden_and_all_others_are_shown():
    with pytest.warns(FutureWarning, match="^another$") as seen, without_known_warnings():
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=2)
        warnings.warn("another", FutureWarning, stacklevel=2)
    assert len(seen) == 1


@pytest.mark.parametrize(("name", "words"), KNOWN_RECORDS.items())
def test_known_records_are_hidden_while_the_libraries_are_called(caplog, name, words):
    logger = logging.getLogger(name)
    with caplog.at_level(logging.WARNING, name):
        with without_known_warnings():
            logger.warning(f"{words} something")
            logger.warning("another")
        logger.warning(f"{words} something")
    assert [record.getMessage() for record in caplog.records] == ["another", f"{words} something"]
