import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.text import train_tokenizer
from cftrec.text.tokenizer import token_texts

TEXTS = ["Star Wars (1977)\n", "Star Trek\n\n", "movie history, in order:\n", "\n a\n b"]


def test_the_same_texts_give_the_same_tokenizer():
    one, two = (train_tokenizer(TEXTS, 320) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(plain_tokenizer, text):
    ids = plain_tokenizer(text, split_special_tokens=True).input_ids
    assert plain_tokenizer.decode(ids) == text
    assert plain_tokenizer.eos_token_id not in ids


def test_emoji_and_right_to_left(plain_tokenizer):
    text = "👩‍👩‍👧 שלום العربية\t\x00"
    assert plain_tokenizer.decode(plain_tokenizer(text).input_ids) == text


@given(st.text("\n ab"))
def test_a_newline_is_a_token_of_its_own(plain_tokenizer, text):
    pieces = [plain_tokenizer.decode([token]) for token in plain_tokenizer(text).input_ids]
    assert all(piece == "\n" or "\n" not in piece for piece in pieces)


def test_size_and_special_tokens():
    tokenizer = train_tokenizer(TEXTS, 260, tokens=["<a_1>"])
    assert len(tokenizer) == 261
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.bos_token is None
    assert len(tokenizer("<a_1><a_1>").input_ids) == 2
    with pytest.raises(InputError, match="nano_vocab_size=256: must be at least 257"):
        train_tokenizer(TEXTS, 256)


def test_save_and_load(plain_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    plain_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Star Wars (1977)\n\n a .  b"
    assert loaded(text).input_ids == plain_tokenizer(text).input_ids
    assert loaded.decode(loaded(text).input_ids) == text


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.data())
def test_tokens_spell_their_text(texts, data):
    """Whatever characters are cut into bytes, the pieces join to the text."""
    tokenizer = train_tokenizer(texts, 270)
    text = data.draw(st.sampled_from(texts))
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text.rstrip("\ufffd")
