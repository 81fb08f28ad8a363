"""Tensors on disk, by what they depend on."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from peft_mudpt.lab.feature_cache import CacheOptions, FeatureCache, cached


KEY = {"kind": "image features", "weights": "abc", "versions": {"torch": "1", "pillow": "2"}}
TENSOR = torch.arange(12.0).reshape(3, 4)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache", 2**20)


def file_of(cache: FeatureCache) -> Path:
    (path,) = cache.folder.iterdir()
    return path


@pytest.mark.parametrize("tensor", [TENSOR, TENSOR.bfloat16(), torch.arange(5), TENSOR.t(), TENSOR[:0]])
def test_what_was_saved_is_loaded_to_the_last_bit(cache, tensor):
    cache.save(KEY, tensor)
    found = cache.load(KEY)
    assert torch.equal(found, tensor) and found.dtype == tensor.dtype


def test_the_order_of_a_key_does_not_matter_but_every_value_does(cache):
    cache.save(KEY, TENSOR)
    assert cache.load(dict(reversed(KEY.items()))) is not None
    for name in KEY:
        assert cache.load({**KEY, name: "other"}) is None
    assert cache.load({**KEY, "more": None}) is None


@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_is_not_used_and_is_written_anew(cache, caplog, at):
    cache.save(KEY, TENSOR)
    content = file_of(cache).read_bytes()
    file_of(cache).write_bytes(content[: int(at * len(content))])
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY) is None
    assert str(file_of(cache)) in caplog.text
    cache.save(KEY, TENSOR)
    assert torch.equal(cache.load(KEY), TENSOR)


def test_no_file_with_another_byte_is_used(cache):
    cache.save(KEY, TENSOR)
    content = file_of(cache).read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1
        file_of(cache).write_bytes(changed)
        found = cache.load(KEY)
        assert found is None or torch.equal(found, TENSOR), position


def test_the_file_of_another_key_is_not_used(cache):
    cache.save(KEY, TENSOR)
    mine = file_of(cache)
    cache.save({**KEY, "weights": "def"}, TENSOR + 1)
    (other,) = (path for path in cache.folder.iterdir() if path != mine)
    other.rename(mine)
    assert cache.load(KEY) is None


def test_what_was_not_used_for_the_longest_time_is_deleted_first(cache):
    size = 60_000
    cache.limit = 2.5 * size
    for weights in "abc":
        cache.save({"weights": weights}, torch.zeros(size, dtype=torch.uint8))
        if weights == "b":
            cache.load({"weights": "a"})
    assert [cache.load({"weights": weights}) is not None for weights in "abc"] == [True, False, True]


def test_other_files_in_the_folder_are_left_alone(cache):
    cache.folder.mkdir()
    mine = [cache.folder / name for name in ("model.safetensors", "notes.partial")]
    for path in mine:
        path.write_bytes(b"mine" * 1000)
    cache.limit = 1000
    for weights in "abcdefgh":
        cache.save({"weights": weights}, TENSOR)
    assert all(path.read_bytes() == b"mine" * 1000 for path in mine)
    assert sum(path.stat().st_size for path in cache.folder.iterdir() if path not in mine) <= 1000


def test_what_a_killed_process_left_is_deleted_after_a_while(cache, monkeypatch):
    cache.save(KEY, TENSOR)
    left = file_of(cache).with_name(f"{'0' * 64}.{'1' * 32}.partial")
    left.write_bytes(b"half")
    cache.save(KEY, TENSOR)
    assert left.exists()  # its writer may be at work
    monkeypatch.setattr("peft_mudpt.lab.feature_cache.ABANDONED", -1)
    cache.save(KEY, TENSOR)
    assert not left.exists()


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "cache", 2**20)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached(Accelerator(), cache, lambda: KEY, lambda: TENSOR), TENSOR)
    assert str(cache.folder) in caplog.text


def test_a_tensor_is_computed_once(cache):
    computed = []

    def compute():
        computed.append(1)
        return TENSOR

    for _ in range(2):
        assert torch.equal(cached(Accelerator(), cache, lambda: KEY, compute), TENSOR)
    assert len(computed) == 1


def test_one_flag_turns_the_cache_off(monkeypatch, tmp_path):
    assert CacheOptions("off").cache() is None
    assert CacheOptions(str(tmp_path), 2).cache().folder == tmp_path
    monkeypatch.setenv("PEFT_MUDPT_CACHE", str(tmp_path / "named"))
    assert CacheOptions().cache().folder == tmp_path / "named"
    monkeypatch.delenv("PEFT_MUDPT_CACHE")
    assert CacheOptions().cache().folder.name == "peft_mudpt"


def test_many_writers_of_one_key_leave_one_whole_file(cache):
    tensors = [torch.full((1000,), float(number)) for number in range(8)]

    def write_and_read(tensor):
        for _ in range(10):
            cache.save(KEY, tensor)
            found = cache.load(KEY)
            assert any(torch.equal(found, one) for one in tensors)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_and_read, tensors))
    assert len(list(cache.folder.iterdir())) == 1
