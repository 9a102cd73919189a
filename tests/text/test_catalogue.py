import numpy as np
import pytest

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
    assert sorted(file.name for file in tmp_path.iterdir()) == ["catalogue.arrow", "catalogue.safetensors"]
    loaded = Catalogue.load(tmp_path)
    assert (loaded.item_ids, loaded.titles) == (IDS, TITLES)
    for name in ("tokens", "offsets"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(catalogue, name), strict=True)
    for name in vars(catalogue.trie):
        np.testing.assert_array_equal(getattr(loaded.trie, name), getattr(catalogue.trie, name), strict=True)


@pytest.mark.parametrize("file", ["catalogue.arrow", "catalogue.safetensors"])
def test_a_missing_or_broken_file_is_named(catalogue, tmp_path, file):
    catalogue.save(tmp_path)
    (tmp_path / file).write_bytes(b"\x00noise\xff" * 20)
    with pytest.raises(InputError, match="no readable catalogue"):
        Catalogue.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match="no readable catalogue"):
        Catalogue.load(tmp_path)


def test_bad_parts_are_refused():
    with pytest.raises(InputError, match="empty"):
        Catalogue.build([], [], [])
    with pytest.raises(InputError, match="1, 2 and 1"):
        Catalogue.build(["a"], ["A", "B"], [[1]])
    with pytest.raises(InputError, match="item 1 "):
        Catalogue.build(["a", "b"], ["A", "B"], [[1], []])
