import pytest
import torch

from peft_mudpt.classifier.packing import class_words, own_rows, pack_classes


BOS, EOS = 97, 98
TEXTS = [[BOS, 1, 2, 11, EOS], [BOS, 1, 2, 12, 13, EOS], [BOS, 1, 2, EOS]]


def tokens(texts, pad=EOS, length=9):
    return {"input_ids": torch.tensor([text + [pad] * (length - len(text)) for text in texts])}


def is_eos(ids):
    return ids == EOS


@pytest.mark.parametrize("pad", [EOS, 0])
def test_words_end_at_the_first_eos(pad):
    assert class_words(tokens(TEXTS, pad), is_eos) == TEXTS


@pytest.mark.parametrize(
    ("texts", "mask", "said"),
    [
        ([[BOS, 1, EOS], [5, 1, EOS]], None, r"class 1 .* begins with another token"),
        ([[BOS, 1, EOS], [BOS, 1, 2]], None, "class 1 .* has no EOS"),
        ([[EOS, 1, EOS], [EOS, 1, 2]], None, "class 1 .* has no EOS"),
        ([[BOS, 1, EOS], [BOS, 1, EOS]], [[1, 1, 1], [0, 1, 1]], "class 1 .* padding before its EOS"),
    ],
)
def test_texts_that_cannot_be_packed_are_refused(texts, mask, said):
    given = {"input_ids": torch.tensor(texts)}
    if mask is not None:
        given["attention_mask"] = torch.tensor(mask)
    with pytest.raises(ValueError, match=said):
        class_words(given, is_eos)


def test_what_the_texts_begin_with_stands_once_in_a_row():
    packed = pack_classes(TEXTS, num_tokens=0, max_length=20)
    assert packed.input_ids.tolist() == [[BOS, 1, 2, 12, 13, EOS, 11, EOS, EOS]]  # the longest comes first
    assert packed.eos.tolist() == [7, 5, 8]


def test_a_class_stands_at_the_positions_it_has_alone_behind_the_prompts():
    packed = pack_classes(TEXTS, num_tokens=4, max_length=20)
    assert packed.position_ids.tolist() == [[0, 5, 6, 7, 8, 9, 7, 8, 7]]


def test_a_class_that_finds_no_room_begins_a_new_row():
    packed = pack_classes(TEXTS, num_tokens=0, max_length=6)
    assert packed.input_ids.tolist() == [[BOS, 1, 2, 12, 13, EOS], [BOS, 1, 2, 11, EOS, EOS]]
    assert packed.eos.tolist() == [6 + 4, 5, 6 + 5]


def test_short_classes_fill_the_rows_of_long_ones():
    texts = [[BOS, *[label] * (1 + label % 7), EOS] for label in range(1, 60)]  # 2 to 8 tokens after BOS
    rows = len(pack_classes(texts, num_tokens=0, max_length=21).input_ids)
    assert rows == -(-sum(len(text) - 1 for text in texts) // 20)  # as many as the tokens need


def test_each_class_sees_the_prefix_and_itself_and_nothing_behind():
    mask = pack_classes(TEXTS, num_tokens=1, max_length=20).attention_mask
    owner = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]  # of BOS, the prompt, two common words, and the three classes' own
    for query in range(10):
        for key in range(10):
            sees = key <= query and owner[key] in (0, owner[query])
            assert mask[0, 0, query, key] == sees, (query, key)


def test_a_single_class_keeps_a_token_of_its_own():
    packed = pack_classes([TEXTS[0]], num_tokens=2, max_length=20)
    assert packed.input_ids.tolist() == [TEXTS[0]]
    assert packed.eos.tolist() == [4]


def test_a_class_with_its_own_tokens_sees_bos_its_tokens_and_all_its_words():
    packed = pack_classes(TEXTS, num_tokens=2, max_length=20)
    own = own_rows(TEXTS, packed, num_tokens=2, max_length=20)
    # of the packed row: BOS, two prompts, two common words, the classes' words; then two tokens for each class
    texts = [[0, 11, 12, 3, 4, 8, 9], [0, 13, 14, 3, 4, 5, 6, 7], [0, 15, 16, 3, 4, 10]]
    (sources,), (mask,) = own.sources.tolist(), own.attention_mask[:, 0]
    for text, end in zip(texts, own.eos.tolist()):
        assert [sources[key] for key in range(len(sources)) if mask[end, key]] == text


@pytest.mark.parametrize("max_length", [20, 77, 500])
def test_rows_of_classes_with_their_own_tokens_are_full_and_not_too_long(max_length):
    texts = [[BOS, 1, *[5 + i] * (1 + i % 3), EOS] for i in range(40)]
    own = own_rows(texts, pack_classes(texts, 1, max_length), num_tokens=1, max_length=max_length)
    rows, length = own.sources.shape
    assert length <= max_length
    tokens = sum(len(text) for text in texts)  # each has a token of its own in place of BOS
    assert rows * (length - 1) < 1.2 * tokens
