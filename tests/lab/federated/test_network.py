"""The same federation in this process, over a network, and in Flower's simulation."""

import socket
from importlib.util import find_spec

import pytest
import torch
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from peft_mudpt.federated.server import CHECKPOINT
from peft_mudpt.lab.backbone import FOR_PHOTOGRAPHS
from peft_mudpt.lab.federated.apps import arguments_of, find_client
from peft_mudpt.lab.federated.network import APP, HOST, flags_of, run_with_flower
from peft_mudpt.lab.federated.options import FederatedArguments
from peft_mudpt.lab.federated.running import run
from peft_mudpt.lab.flags import parse_flags
from tests.lab.federated.conftest import STYLES


# In a network there is one client, because each contact with one is a process that imports torch. In the simulation
# Ray has one core, so that one process, which imports torch, takes the part of both clients.
ENGINES = {
    "network": (False, "coop", 1),
    "simulation": pytest.param(
        True, "fed_dpt", 2, marks=pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("simulation", "method", "clients"), ENGINES.values(), ids=ENGINES)
def test_clients_learn_the_same_numbers_as_in_one_process(
    arguments, tmp_path, monkeypatch, simulation, method, clients
):
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 1}')
    given = dict(num_rounds=1, method=method, domains=",".join(STYLES[:clients]))
    here = run(arguments(**given))
    there = run_with_flower(arguments(**given, output_dir=str(tmp_path / "there")), simulation)
    assert [each["accuracy"] for each in there["rounds"]] == [each["accuracy"] for each in here["rounds"]]
    ours, theirs = (load_file(tmp_path / folder / CHECKPOINT) for folder in ("out", "there"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6, rtol=0)


def test_a_port_in_use_is_named_before_anything_starts(arguments):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"Port {port} of this machine is in use"):
            run_with_flower(arguments(), simulation=False, port=port)


def test_a_folder_of_another_run_is_refused_before_anything_starts(arguments):
    run(arguments(method="coop"))
    with pytest.raises(ValueError, match="holds another run"):
        run_with_flower(arguments(method="coop", seed=2), simulation=False)


def test_flags_give_the_same_arguments(arguments):
    given = arguments(
        method="coop", method_kwargs='{"num_virtual_tokens": 4}', clip_norm=0.5, template='a photo of a {}\'s "face".'
    )
    assert parse_flags(FederatedArguments, flags_of(given)) == given
    own_pictures = FederatedArguments(domains_dir="hospitals", model_name_or_path="embedded")
    assert parse_flags(FederatedArguments, flags_of(own_pictures)) == own_pictures
    assert parse_flags(FederatedArguments, ["--domains_dir", "hospitals"]).model_name_or_path == FOR_PHOTOGRAPHS


def context(node, flags=""):
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config={"flags": flags})


def test_a_node_with_a_folder_of_its_own_is_a_client_with_these_pictures(domains_dir, arguments):
    flags = f"--domains {','.join(STYLES)} --shots 3"
    client = find_client(context({"partition-id": 1, "train-dir": str(domains_dir / "plain")}, flags))
    assert (client.number, client.domain, client.num_examples) == (1, 1, 9)
    assert all(item.startswith("filled") or item.startswith("hollow") for item in client.data.train["item"][:])


@pytest.mark.parametrize(
    ("node", "flags", "message"),
    [
        ({}, "", "The node config has no partition-id"),
        ({"partition-id": 0}, "", "no train-dir. Start the SuperNode"),
        ({"partition-id": 0}, "--shots many", "no flags of examples/federated.py"),
        ({"partition-id": 0}, "--no_such_flag 1", "Unknown arguments"),
        ({"partition-id": 0, "train-dir": "nowhere"}, "", "nowhere"),
    ],
)
def test_a_node_that_cannot_be_a_client_says_why(node, flags, message):
    with pytest.raises(ValueError, match=message):
        find_client(context(node, flags))


def test_the_app_names_the_apps_of_this_package():
    text = (APP / "pyproject.toml").read_text()
    assert 'serverapp = "peft_mudpt.lab.federated.apps:server"' in text
    assert 'clientapp = "peft_mudpt.lab.federated.apps:client"' in text
    assert arguments_of(context({})) == FederatedArguments()
