"""What users may name says what it does."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import peft_mudpt
from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, lab


PUBLIC = [getattr(room, name) for room in (peft_mudpt, demo, lab) for name in room.__all__]
CLASSES = [public for public in PUBLIC if inspect.isclass(public)]
FUNCTIONS = [public for public in PUBLIC if inspect.isfunction(public)]


def public_methods(cls: type) -> list[str]:
    """The methods and properties that a class has of its own."""
    own = [name for name in vars(cls) if not name.startswith("_")]
    return [name for name in own if callable(getattr(cls, name)) or isinstance(getattr(cls, name), property)]


@pytest.mark.parametrize("public", [*CLASSES, *FUNCTIONS], ids=lambda public: public.__name__)
def test_a_public_name_and_its_methods_have_docstrings(public):
    assert public.__doc__
    if inspect.isclass(public):
        assert [name for name in public_methods(public) if not inspect.getdoc(getattr(public, name))] == []


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_public_function_explains_each_argument(function):
    explained = inspect.getdoc(function)
    assert [name for name in inspect.signature(function).parameters if f"\n    {name}" not in explained] == []


def test_the_classifier_explains_what_it_is_made_from():
    _, *parameters = inspect.signature(MuDPTClassifier.__init__).parameters
    assert [name for name in parameters if f"\n    {name}" not in inspect.getdoc(MuDPTClassifier)] == []


def test_every_field_of_the_config_has_a_help_text():
    inherited = {field.name for field in dataclasses.fields(MuDPTConfig.__mro__[1])}
    own = [field for field in dataclasses.fields(MuDPTConfig) if field.name not in inherited]
    assert own and [field.name for field in own if not field.metadata.get("help")] == []


def test_every_room_says_what_it_is_for():
    rooms = [module.name for module in pkgutil.walk_packages(peft_mudpt.__path__, "peft_mudpt.")]
    assert rooms and [name for name in rooms if not importlib.import_module(name).__doc__] == []
