"""Uploading a finished run to the Hub."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoUrl
from huggingface_hub.utils import filter_repo_objects

from peft_mudpt import demo
from peft_mudpt.lab.hub import UPLOADED, create_hub_repo, push_to_hub
from peft_mudpt.lab.report.card import model_card
from peft_mudpt.lab.run_folder import EXAMPLES
from tests.lab.report.test_card import parsed, result


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the Hub that accepts everything and records it."""
    calls = {"created": [], "uploaded": {}}

    def create_repo(self, repo_id, *, private, exist_ok):
        calls["created"].append((repo_id, private, exist_ok))
        return RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else 'somebody/' + repo_id}")

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        names = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()]
        taken = filter_repo_objects(names, allow_patterns=allow_patterns)
        calls["uploaded"][repo_id] = {name: (folder_path / name).read_text() for name in taken}

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def fill(folder: Path) -> None:
    for name in (*UPLOADED, "run.json", "optimizer.bin", "checkpoint/adapter_model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith(".json") else name)
    model_card(result(), demo.MODEL_PATH, "somebody/stars").save(folder / "README.md")


def test_exactly_the_adapters_four_files_are_uploaded(hub, tmp_path):
    fill(tmp_path)
    push_to_hub(tmp_path, "somebody/stars", private=True)
    files = {"adapter_config.json", "adapter_model.safetensors", "README.md", "result.json"}
    assert set(hub["uploaded"]["somebody/stars"]) == files


def test_the_pictures_of_a_detectors_card_are_uploaded_too(hub, tmp_path):
    fill(tmp_path)
    (tmp_path / EXAMPLES).write_text("a picture")
    push_to_hub(tmp_path, "somebody/stars", private=True)
    assert hub["uploaded"]["somebody/stars"][EXAMPLES] == "a picture"


def test_the_card_is_uploaded_unchanged(hub, tmp_path):
    fill(tmp_path)
    push_to_hub(tmp_path, "somebody/stars", private=True)
    uploaded = ModelCard(hub["uploaded"]["somebody/stars"]["README.md"])
    assert uploaded.data.to_dict() == parsed(demo.MODEL_PATH).data.to_dict()
    assert uploaded.text == parsed(demo.MODEL_PATH).text


@pytest.mark.parametrize("base", [demo.MODEL_PATH, "/home/someone/clip", "openai/clip-vit-base-patch16", None])
def test_no_path_of_this_machine_is_uploaded(hub, tmp_path, base):
    fill(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": base, "tokenizer_name_or_path": base, "r": 8}))
    before = config.read_text()
    push_to_hub(tmp_path, "somebody/stars", private=True)
    shared = base if base == "openai/clip-vit-base-patch16" else None
    uploaded = json.loads(hub["uploaded"]["somebody/stars"]["adapter_config.json"])
    assert uploaded == {"base_model_name_or_path": shared, "tokenizer_name_or_path": shared, "r": 8}
    assert config.read_text() == before  # the adapter still loads from its folder


def test_push_returns_the_url_of_the_repository(hub, tmp_path):
    fill(tmp_path)
    assert push_to_hub(tmp_path, "stars", private=False) == "https://huggingface.co/somebody/stars"
    assert list(hub["uploaded"]) == ["somebody/stars"]


def test_a_folder_that_lacks_a_file_is_not_uploaded(hub, tmp_path):
    fill(tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="lacks result.json"):
        push_to_hub(tmp_path, "somebody/stars", private=True)
    assert not hub["created"] and not hub["uploaded"]


def test_creating_a_repository_accepts_an_existing_one(hub):
    create_hub_repo("somebody/stars", private=True)
    assert hub["created"] == [("somebody/stars", True, True)]


def test_a_name_without_a_user_is_returned_as_a_full_id(hub):
    assert create_hub_repo("stars", private=False) == "somebody/stars"


def test_a_malformed_id_is_refused():
    with pytest.raises(ValueError, match="'some body/stars' .*user/name"):
        create_hub_repo("some body/stars", private=False)


@pytest.mark.parametrize("error", [LocalTokenNotFoundError("no token"), HTTPError("no network"), OSError("forbidden")])
def test_the_error_of_a_hub_that_refuses_says_how_to_log_in(monkeypatch, error):
    def create_repo(*args, **kwargs):
        raise error

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    with pytest.raises(
        OSError,
        match=f"'somebody/stars': {error}\n(.|\n)*`hf auth login`",
    ):
        create_hub_repo("somebody/stars", private=False)


def test_without_a_login_no_request_is_sent_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(OSError, match="`hf auth login`") as refusal:
        create_hub_repo("somebody/stars", private=False)
    assert isinstance(refusal.value.__cause__, LocalTokenNotFoundError)  # not an answer, nor a network error
