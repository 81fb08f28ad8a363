import pytest

from peft_mudpt.lab.data.sources import load_embedded


@pytest.fixture(scope="module")
def pictures():
    """Four pictures of each of the first three classes; the training split has 32 of each class."""
    return load_embedded("faded").train.select([32 * (i // 4) + i % 4 for i in range(12)])
