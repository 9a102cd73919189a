import polars as pl
import pytest

from cftrec.errors import InputError
from cftrec.text import build_prompt, given_tokens, item_texts, tokenise_items, train_tokenizer

ITEMS = pl.DataFrame(
    {
        "item_id": ["1", "2", "3"],
        "title": ["Halo", "{brand}", "Doom"],
        "brand": ["Bungie", None, "id"],
        "year": [2001, None, 1993],
        "codes": ["<a_1> <b_2>", "<a_1>  <b_1>", "<a_2> <b_1>"],
    }
)


def test_text_from_columns():
    assert item_texts(ITEMS) == ["Halo", "{brand}", "Doom"]
    assert item_texts(ITEMS, "{title} by {brand}") == ["Halo by Bungie", "{brand} by", "Doom by id"]
    assert item_texts(ITEMS, "{{{title}}} {year}") == ["{{Halo}} 2001", "{{{brand}}}", "{{Doom}} 1993"]


def test_unknown_column_and_no_column():
    with pytest.raises(InputError, match=r"'genre'.*item_id, title, brand, year, codes"):
        item_texts(ITEMS, "{title} ({genre})")
    with pytest.raises(InputError, match="names no column"):
        item_texts(ITEMS, "title")


def test_every_sequence_is_the_written_item_and_the_closing(plain_tokenizer):
    prompt = build_prompt("d3", plain_tokenizer, category="game")
    sequences = tokenise_items(["Halo", "Doom"], plain_tokenizer, prompt)
    assert [plain_tokenizer.decode(s) for s in sequences] == ['"Halo"\n<|endoftext|>', '"Doom"\n<|endoftext|>']
    assert tokenise_items([], plain_tokenizer, prompt) == []


@pytest.mark.parametrize("preset", ["plain", "d3"])
def test_an_item_without_text_is_named(plain_tokenizer, preset):
    prompt = build_prompt(preset, plain_tokenizer, category="game")
    with pytest.raises(InputError, match=r"item 1 .*no text"):
        tokenise_items(["Halo", ""], plain_tokenizer, prompt)


def test_given_tokens():
    pieces = ["<a_1>", "<a_2>", "<b_1>", "<b_2>"]
    tokenizer = train_tokenizer(["Halo"], 257, tokens=pieces)
    number = tokenizer.get_vocab()
    prompt = build_prompt("alpaca", tokenizer, category="game")
    first, second, _ = given_tokens(ITEMS, "codes", tokenizer, prompt)
    quote = number['"']
    assert first == [quote, number["<a_1>"], number["<b_2>"], quote, tokenizer.eos_token_id]
    assert second == [quote, number["<a_1>"], number["<b_1>"], quote, tokenizer.eos_token_id]


def test_given_tokens_are_checked():
    tokenizer = train_tokenizer(["Halo"], 257, tokens=["<a_1>", "<b_2>", "<b_1>"])
    prompt = build_prompt("plain", tokenizer, category="game")
    with pytest.raises(InputError, match=r"item 2 .*'<a_2>'"):
        given_tokens(ITEMS, "codes", tokenizer, prompt)
    with pytest.raises(InputError, match=r"item 1 .*'brand' is empty"):
        given_tokens(ITEMS.with_columns(brand=pl.Series(["<a_1>", None, ""])), "brand", tokenizer, prompt)
    with pytest.raises(InputError, match="no column 'sid'"):
        given_tokens(ITEMS, "sid", tokenizer, prompt)
