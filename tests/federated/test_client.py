"""What the app of a client sends, and what it keeps to itself."""

import pytest
import torch

from peft_mudpt.federated.client import client_app
from peft_mudpt.federated.in_process import InProcessGrid
from tests.federated.clients import CONTEXT, VISION, Adder, domain_arrays, shared_arrays


class Watched(InProcessGrid):
    """Keeps what the clients have sent: the names in each record of each reply."""

    def _answer(self, message):
        reply = super()._answer(message)
        names = {} if reply.has_error() else {record: set(held) for record, held in reply.content.items()}
        self.sent = [*getattr(self, "sent", []), names]
        return reply


def watched(made, tells_errors=True):
    app = client_app(lambda context: made.clients[context.node_config["partition-id"]], tells_errors=tells_errors)
    made.grid = Watched(app, len(made.clients))
    return made


def test_a_client_sends_its_context_the_visual_prompts_and_what_it_measures(federation):
    made = watched(federation(Adder(0, 1.0), Adder(1, 2.0)))
    made.run(domain_arrays(2))
    measured = {"metrics": {"num-examples", "accuracy"}}
    described = {"client": {"number", "domain", "domain-name", "num-examples", "class-names"}}
    trained = [{"arrays": {VISION, CONTEXT.format(k)}, "metrics": {"num-examples", "loss"}} for k in range(2)]
    assert made.grid.sent == [described, described, measured, measured, *trained, measured, measured]


def test_arrays_that_were_not_received_are_not_sent(federation):
    class Careless(Adder):
        def train(self, arrays, server_round):
            return {**arrays, "pixels": torch.zeros(3)}, {}

    _, history = federation(Adder(0, 1.0), Careless(1)).run(shared_arrays())
    assert "the training returned ['pixels'], which are not in the adapter" in history[1].left_out["1"]
    assert history[1].bytes_up * 2 == history[1].bytes_down


def test_the_text_of_an_error_stays_with_the_client_unless_it_is_told(federation, caplog):
    class Failing(Adder):
        def train(self, arrays, server_round):
            raise OSError("cannot read /data/patients/somebody.png")

    made = watched(federation(Adder(0, 1.0), Failing(1)), tells_errors=False)
    _, history = made.run(shared_arrays())
    assert history[1].left_out["1"] == "it reported an error: ClientError: OSError (see the log of the client)"
    assert "somebody.png" in caplog.text  # in the log of the client, which is this process here


def test_half_precision_is_sent_as_float32(federation):
    class Half(Adder):
        def train(self, arrays, server_round):
            return {name: tensor.bfloat16().requires_grad_() for name, tensor in arrays.items()}, {"loss": 1.0}

    arrays, history = federation(Half(0)).run({"a": torch.ones(3)})
    assert history[1].trained == [0] and torch.equal(arrays["a"], torch.ones(3))


@pytest.mark.parametrize("extra", [{"seconds": 1.0}, {}])
def test_what_a_client_measures_is_sent_as_it_is(federation, extra):
    class Measuring(Adder):
        def train(self, arrays, server_round):
            return arrays, extra

    made = watched(federation(Measuring(0)))
    made.run(shared_arrays())
    assert made.grid.sent[2]["metrics"] == {"num-examples", *extra}
