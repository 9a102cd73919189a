from dataclasses import fields

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cftrec.errors import InputError
from cftrec.text import Catalogue

IDS = ["a", "b", "c", "d", "e"]
TITLES = ["Star Wars (1977)", "Star Trek (1979)", "Toy Story (1995)", "Stargate (1994)", "Amélie"]
SEQUENCES = [[1, 2, 0], [1, 3, 0], [4, 0], [1, 2, 5, 0], [4, 0]]


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.build(IDS, TITLES, SEQUENCES)


def test_sequences_are_given_back(catalogue):
    assert [catalogue.sequence(item).tolist() for item in range(len(catalogue))] == SEQUENCES
    assert catalogue.tokens.dtype == np.int32
    assert catalogue.offsets.dtype == np.int64
    assert catalogue.longest == 4


def test_index_of(catalogue):
    assert catalogue.index_of(["Amélie", "Star Wars (1977)"]).tolist() == [4, 0]
    assert catalogue.index_of([]).tolist() == []


def test_of_two_items_with_one_title_the_first_is_meant():
    assert Catalogue.build(["x", "y"], ["T", "T"], [[1], [2]]).index_of(["T"]).tolist() == [0]


def test_an_unknown_title_is_answered_with_the_nearest_three(catalogue):
    with pytest.raises(InputError) as error:
        catalogue.index_of(["Amélie", "star wars"])
    message = str(error.value)
    assert "'star wars'" in message
    assert "\n" not in message
    offered = [title for title in TITLES if title in message]
    assert len(offered) == 3
    assert "Star Wars (1977)" in offered
    assert catalogue.nearest("star wars")[0] == "Star Wars (1977)"


@pytest.mark.parametrize("title", ["", "?!", "🎬", "x" * 5000])
def test_any_text_as_an_unknown_title(catalogue, title):
    with pytest.raises(InputError, match="unknown title"):
        catalogue.index_of([title])


def test_save_and_load(catalogue, tmp_path):
    catalogue.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert (loaded.item_ids, loaded.titles) == (IDS, TITLES)
    assert loaded.columns.shape == (5, 0)
    assert [loaded.sequence(item).tolist() for item in range(5)] == SEQUENCES
    for name in ("tokens", "offsets", "counts", "trained"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(catalogue, name), strict=True)
    for field in fields(catalogue.trie):
        given, back = getattr(catalogue.trie, field.name), getattr(loaded.trie, field.name)
        np.testing.assert_array_equal(back, given, strict=True)
        assert not back.flags.writeable  # the file's own bytes


def test_a_catalogue_saved_without_its_trie_is_read(catalogue, tmp_path):
    """As RUNs of the first version hold it: ids, titles and counts, and tokens beside them."""
    table = pl.DataFrame({"item_id": IDS, "title": TITLES, "count": [3, 1, 4, 1, 5]})
    table.write_ipc(tmp_path / "catalogue.arrow")
    save_file({"tokens": catalogue.tokens, "offsets": catalogue.offsets}, tmp_path / "catalogue.safetensors")
    loaded = Catalogue.load(tmp_path)
    assert (loaded.item_ids, loaded.titles, loaded.counts.tolist()) == (IDS, TITLES, [3, 1, 4, 1, 5])
    np.testing.assert_array_equal(loaded.trie.end, catalogue.trie.end)
    assert loaded.trained.all()
    with pytest.raises(InputError, match="no column 'genre'"):
        loaded.groups("genre")


@pytest.mark.parametrize("file", ["catalogue.arrow", "trie/paths.npy"])
def test_a_missing_or_broken_file_is_named(catalogue, tmp_path, file):
    catalogue.save(tmp_path)
    (tmp_path / file).write_bytes(b"\x00noise\xff" * 20)
    with pytest.raises(InputError, match="no readable catalogue"):
        Catalogue.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match="no readable catalogue"):
        Catalogue.load(tmp_path)


def test_items_by_id_or_title():
    """An id goes before a title, and a title means every item that has it."""
    catalogue = Catalogue.build(["a", "b", "T"], ["T", "U", "U"], [[1], [2], [3]])
    assert catalogue.named(["U"]).tolist() == [1, 2]
    assert catalogue.named(["T", "T", "b"]).tolist() == [1, 2]
    assert catalogue.named([]).tolist() == []
    with pytest.raises(InputError, match="'V' is neither an item id nor a title; the nearest are"):
        catalogue.named(["a", "V"])


def test_groups_of_a_column(tmp_path):
    columns = pl.DataFrame({"genre": ["x", None, "y", "", "x"]})
    Catalogue.build(IDS, TITLES, SEQUENCES, columns=columns).save(tmp_path)
    groups = Catalogue.load(tmp_path).groups("genre")
    assert groups[0] == groups[4] != groups[2]
    assert groups[[1, 3]].tolist() == [-1, -1]
    assert groups[[0, 2]].min() >= 0


def added(catalogue, rows, sequences, **columns):
    ids, titles = zip(*rows, strict=True)
    return catalogue.extended(pl.DataFrame({"item_id": ids, "title": titles} | columns), sequences)


def test_added_items_stand_behind_the_others(catalogue):
    later = added(catalogue, [("f", "Fargo"), ("g", "Gattaca")], [[1, 2, 7], [8]], year=["1996", "1997"])
    assert later.item_ids == [*IDS, "f", "g"]
    assert later.titles == [*TITLES, "Fargo", "Gattaca"]
    assert [later.sequence(item).tolist() for item in range(7)] == [*SEQUENCES, [1, 2, 7], [8]]
    assert later.trained.tolist() == [True] * 5 + [False] * 2
    assert later.counts.tolist() == [0] * 7
    assert later.columns["year"].to_list() == [None] * 5 + ["1996", "1997"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("e", "New")], "item_id 'e': in the catalogue already"),
        ([("n", "Amélie")], "title 'Amélie': in the catalogue already"),
        ([("n", "New"), ("m", "New")], "title 'New'.*given twice"),
    ],
)
def test_items_that_are_there_are_not_added_again(catalogue, rows, message):
    with pytest.raises(InputError, match=message):
        added(catalogue, rows, [[9]] * len(rows))


rows = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=8)


@given(rows, rows)
def test_untrained_choices_are_those_that_did_not_exist(old, new):
    """Naively: a token after a beginning, which is one of several now and was none or the only one then."""
    catalogue = Catalogue.build([f"o{n}" for n in range(len(old))], [f"O{n}" for n in range(len(old))], old)
    later = added(catalogue, [(f"n{n}", f"N{n}") for n in range(len(new))], new)

    def continuations(sequences, beginning):
        count = len(beginning)
        return {s[count] for s in sequences if s[:count] == beginning and len(s) > count}

    for item, sequence in enumerate([*old, *new]):
        untrained = False
        for place, token in enumerate(sequence):
            now, then = continuations([*old, *new], sequence[:place]), continuations(old, sequence[:place])
            untrained |= len(now) > 1 and (token not in then or len(then) == 1)
        assert later.untrained[item] == untrained
    assert not catalogue.untrained.any()


def test_bad_parts_are_refused():
    with pytest.raises(InputError, match="empty"):
        Catalogue.build([], [], [])
    with pytest.raises(InputError, match="1, 2 and 1"):
        Catalogue.build(["a"], ["A", "B"], [[1]])
    with pytest.raises(InputError, match="item 1 "):
        Catalogue.build(["a", "b"], ["A", "B"], [[1], []])
