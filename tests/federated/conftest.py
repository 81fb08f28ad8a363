from importlib.util import find_spec

import pytest


if find_spec("flwr") is None:  # on Python 3.10
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def federation():
    """The class of federations in this process (see `clients.Federation`)."""
    from peft_mudpt.federated.in_process import in_process
    from tests.federated.clients import Federation

    with in_process():
        yield Federation
