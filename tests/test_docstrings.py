"""Public names have docstrings that explain them."""

import dataclasses
import importlib
import inspect
import pkgutil
from importlib.util import find_spec

import pytest

import peft_mudpt
from peft_mudpt import MuDPTClassifier, MuDPTConfig, demo, lab


# Flower is missing on Python 3.10; Gradio has its own run of the tests, .ci/demo
NEEDED = {".federated": "flwr", ".web_demo.page": "gradio", ".web_demo.space": "gradio"}


def modules_of(package) -> list[str]:
    """The names of all modules of a package, without those that need a package that is not installed."""
    missing = [module for module, needed in NEEDED.items() if find_spec(needed) is None]
    # onerror: walk_packages imports the packages that it finds, also those that are skipped
    infos = pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None)
    return [info.name for info in infos if not any(module in info.name for module in missing)]


def defined_in(package) -> list:
    """The functions and classes that the modules of a package define, without those whose name begins with "_"."""
    found = []
    for module in modules_of(package):
        for name, value in vars(importlib.import_module(module)).items():
            is_code = inspect.isfunction(value) or isinstance(value, type)
            if is_code and value.__module__ == module and not name.startswith("_"):
                found.append(value)
    return found


MODULES = [peft_mudpt, demo, lab]
if find_spec("flwr") is not None:
    MODULES.append(importlib.import_module("peft_mudpt.federated"))
EXPORTED = [getattr(module, name) for module in MODULES for name in module.__all__]
LAB = defined_in(lab)
PUBLIC = [*EXPORTED, *(public for public in LAB if public not in EXPORTED)]
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


@pytest.mark.parametrize("function", [*filter(inspect.isfunction, LAB)], ids=lambda function: function.__name__)
def test_a_function_of_the_lab_explains_what_it_returns(function):
    returned = inspect.signature(function).return_annotation
    yields_nothing = ("None", "Iterator[None]")  # the second is a context manager
    explained = inspect.getdoc(function)
    assert returned in yields_nothing or "\nReturns:\n" in explained or "\nYields:\n" in explained


def test_the_classifier_explains_its_arguments():
    _, *parameters = inspect.signature(MuDPTClassifier.__init__).parameters
    assert [name for name in parameters if f"\n    {name}" not in inspect.getdoc(MuDPTClassifier)] == []


def test_every_field_of_the_config_has_a_help_text():
    inherited = {field.name for field in dataclasses.fields(MuDPTConfig.__mro__[1])}
    own = [field for field in dataclasses.fields(MuDPTConfig) if field.name not in inherited]
    assert own and [field.name for field in own if not field.metadata.get("help")] == []


def test_every_module_has_a_docstring():
    modules = modules_of(peft_mudpt)
    assert modules and [name for name in modules if not importlib.import_module(name).__doc__] == []
