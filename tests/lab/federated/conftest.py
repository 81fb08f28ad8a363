"""Domains as folders: drawn pictures of three classes in three styles."""

from importlib.util import find_spec

import numpy as np
import pytest

from peft_mudpt import demo


if find_spec("flwr") is None:  # on Python 3.10
    collect_ignore_glob = ["test_*.py"]

CLASSES = ("filled red star", "hollow blue heart", "filled green circle")
STYLES = ("faded", "plain", "sunset")


@pytest.fixture(scope="session")
def domains_dir(tmp_path_factory):
    """A folder domain/class/picture, with ten pictures of each class, of which three are held out."""
    root = tmp_path_factory.mktemp("domains")
    for style in STYLES:
        rng = np.random.default_rng(0)
        for name in CLASSES:
            folder = root / style / name.replace(" ", "_")
            folder.mkdir(parents=True)
            for i in range(10):
                demo.paint(name, style, rng).save(folder / f"{i}.png")
    return root


@pytest.fixture
def arguments(domains_dir, tmp_path):
    """Short runs on these folders."""
    from peft_mudpt.lab.federated import settings
    from peft_mudpt.lab.federated.options import FederatedArguments
    from peft_mudpt.lab.federated.partition import load_domain

    def make(**fields):
        short = dict(num_rounds=2, local_steps=2, per_device_train_batch_size=4, shots=4, learning_rate=0.01)
        places = dict(domains=",".join(STYLES), domains_dir=str(domains_dir), output_dir=str(tmp_path / "out"))
        return FederatedArguments(**{**places, **short, **fields})

    yield make
    for cached in (settings.bench_of, settings.client_of, load_domain):
        cached.cache_clear()
