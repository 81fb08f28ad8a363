"""Divides pictures over clients: a client per domain, or several, with unequal classes or numbers of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.draws import draw
from ..data.few_shot_data import FewShotData
from ..data.folders import load_folders
from ..data.sampling import sample_few_shot
from ..data.sources import load_named
from .options import ClientOptions


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ClientData:
    """
    The pictures of a client.

    Args:
        number: number of the client, counted from 0.
        domain: number of its domain, counted from 0.
        domain_name: name of its domain.
        class_names: the classes; the position of a name is its label.
        may_be_cropped: True if a part of a picture still shows its class.
        train: training pictures; may be empty.
        remarks: notes for the user about the pictures of the domain.
        test: test pictures, or validation pictures to choose hyper-parameters by; may be empty.
    """

    number: int
    domain: int
    domain_name: str
    class_names: list[str]
    may_be_cropped: bool
    train: Dataset
    test: Dataset
    remarks: Sequence[str] = ()


def client_data(options: ClientOptions, number: int) -> ClientData:
    """
    Draw the pictures of a client. Only the data set of its domain is read.

    For a domain with n clients, `shots` times n training pictures per class are drawn and divided. A client also gets
    each n-th test picture.

    Args:
        options: how pictures are divided.
        number: number of the client, counted from 0. The clients of the first domain come first.

    Returns:
        The pictures, not decoded.

    Raises:
        ValueError: if there is no such client, or the data set cannot be read.
    """
    if not 0 <= number < options.num_clients:
        raise ValueError(
            f"There is no client {number}: {len(options.domain_names)} domains with {options.clients_per_domain} "
            f"clients each have the numbers 0 to {options.num_clients - 1}."
        )
    domain, position = divmod(number, options.clients_per_domain)
    data = load_domain(options.domain_names[domain], options.domains_dir, options.coop_root)
    return part_of(data, options, number, domain, position)


def part_of(data: FewShotData, options: ClientOptions, number: int, domain: int, position: int) -> ClientData:
    """
    The part of a client in the data set of its domain.

    Args:
        data: the data set.
        options: how pictures are divided.
        number: number of the client.
        domain: number of its domain.
        position: which of the clients of the domain it is, counted from 0.

    Returns:
        The pictures of the client, not decoded.
    """
    drawn = draw(data, options.shots, options.seed, options.evaluate_on)
    tested = drawn.test if options.evaluate_on == "test" else drawn.validation
    held_out = {*drawn.test["item"][:], *tested["item"][:]}
    items, labels = data.train["item"][:], data.train["label"][:]
    pool = [i for i, item in enumerate(items) if item not in held_out]
    n, rng = options.clients_per_domain, np.random.default_rng([options.seed, domain])
    chosen, _ = sample_few_shot([labels[i] for i in pool], [], n * options.shots, options.seed)
    drawn_labels = [labels[pool[i]] for i in chosen]
    owners = divide(drawn_labels, n, options.partition, options.alpha, rng) if n > 1 else [0] * len(chosen)
    return ClientData(
        number,
        domain,
        options.domain_names[domain] if domain < len(options.domain_names) else data.name,
        data.class_names,
        data.may_be_cropped,
        data.train.select([pool[i] for i, owner in zip(chosen, owners) if owner == position]),
        tested.select(range(position, len(tested), n)),
        drawn.remarks,
    )


def divide(
    labels: Sequence[int], num_clients: int, partition: str, alpha: float, rng: np.random.Generator
) -> list[int]:
    """
    Choose an owner for each of some pictures.

    Args:
        labels: labels of the pictures.
        num_clients: number of clients (n).
        partition: "same": each client gets 1/n of each class. "labels": the shares of each class follow a Dirichlet
            distribution of their own. "quantity": the shares of all classes follow one.
        alpha: the parameter of the Dirichlet distribution.
        rng: random numbers.

    Returns:
        The number of the owner of each picture, counted from 0. What rounding takes from a client in one class, it
        gets in a later one.
    """
    numbers = np.asarray(labels)
    owners = np.zeros(len(numbers), dtype=int)
    shares = rng.dirichlet([alpha] * num_clients) if partition == "quantity" else np.full(num_clients, 1 / num_clients)
    owed = np.zeros(num_clients)
    for label in dict.fromkeys(labels):
        members = rng.permutation(np.flatnonzero(numbers == label))
        if partition == "labels":
            shares = rng.dirichlet([alpha] * num_clients)
        owed += shares * len(members)
        for member in members:
            owners[member] = owed.argmax()
            owed[owners[member]] -= 1
    return owners.tolist()


@cache
def load_domain(name: str, domains_dir: str | None, coop_root: str | None) -> FewShotData:
    """
    Load the data set of a domain, once per process.

    Args:
        name: a style of the embedded world, a folder in `domains_dir`, or a data set in `coop_root`.
        domains_dir: see `ClientOptions`.
        coop_root: see `ClientOptions`.

    Raises:
        ValueError: if there is no such data set, or it cannot be read.
    """
    if domains_dir is None:
        data = load_named(name, coop_root)
        if data.train is None:
            raise ValueError(f"The domain {name} has no training pictures; it is for testing only. Leave it out.")
        return data
    folder = Path(domains_dir) / name
    if not folder.is_dir():
        found = (
            sorted(each.name for each in Path(domains_dir).iterdir() if each.is_dir())
            if Path(domains_dir).is_dir()
            else []
        )
        raise ValueError(
            f"--domains_dir {domains_dir} has no folder {name}; its folders are {', '.join(found) or 'none'}. Name "
            "them in --domains."
        )
    return load_folders(folder)


def pooled(clients: Sequence[ClientData]) -> ClientData:
    """
    Put the pictures of clients together, for a comparison with what clients learn without doing so.

    Args:
        clients: the clients, all with the same classes.

    Returns:
        One client that has all their pictures.
    """
    from datasets import concatenate_datasets

    return replace(
        clients[0],
        train=concatenate_datasets([client.train for client in clients]),
        test=concatenate_datasets([client.test for client in clients]),
    )
