"""Which runs are the same experiment."""

import pytest

from peft_mudpt.lab.arguments import Arguments
from peft_mudpt.lab.identity import differences, to_share, what_was_asked


def asked(**fields):
    return what_was_asked(Arguments(**fields))


def test_where_a_run_is_kept_does_not_change_which_run_it_is():
    here, there = asked(output_dir="a", checkpointing_steps=5), asked(output_dir="b", per_device_eval_batch_size=7)
    assert here == there != asked(seed=2)


def test_a_flag_that_an_earlier_version_did_not_know_had_its_default():
    earlier = {name: value for name, value in asked(seed=2).items() if name != "augmentation"}
    assert differences(earlier, asked(seed=2)) == ""
    assert differences(earlier, asked(seed=2, augmentation="none")) == "augmentation: 'auto' there, 'none' asked"


def test_a_flag_that_only_another_version_knows_makes_another_run():
    assert differences({**asked(), "later": 1}, asked()) == "later: 1 there, None asked"


def test_the_earlier_spelling_of_a_protocol_is_the_same_protocol():
    now = asked(protocol="domain-generalization")
    assert differences({**now, "protocol": "domain-generalisation"}, now) == ""


@pytest.mark.parametrize(("other", "same"), [('{"prompt_depth":3}', True), ('{"prompt_depth": 2}', False)])
def test_fields_of_the_method_are_compared_not_their_spelling(other, same):
    one = asked(method_kwargs='{"prompt_depth": 3}')
    assert (differences(one, asked(method_kwargs=other)) == "") is same


def test_what_is_shared_names_folders_without_their_path():
    shared = to_share(asked(train_dir="/home/someone/birds", model_name_or_path="openai/clip"))
    assert (shared["train_dir"], shared["model_name_or_path"]) == ("birds", "openai/clip")
