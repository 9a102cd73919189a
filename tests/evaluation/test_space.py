"""What a sweep varies, as typed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation.space import Range, cell_name, cells, read_space


def test_lists_and_ranges():
    space = read_space(
        ["beta=0.1, 0.5", "learning_rate=1e-4..1e-2:log", "window=5..20", "effect_weight=0..1", "model=a/b"]
    )
    assert space == {
        "beta": ["0.1", "0.5"],
        "learning_rate": Range(1e-4, 1e-2, whole=False, log=True),
        "window": Range(5, 20, whole=True, log=False),
        "effect_weight": Range(0, 1, whole=False, log=False),
        "model": ["a/b"],
    }


@given(st.dictionaries(st.sampled_from("abcd"), st.sets(st.sampled_from("123"), min_size=1), min_size=1))
def test_a_grid_has_every_combination_once(wanted):
    texts = [f"{key}={','.join(sorted(values))}" for key, values in wanted.items()]
    found = [tuple(cell.items()) for cell in cells(read_space(texts))]
    expected = itertools.product(*([(key, value) for value in values] for key, values in wanted.items()))
    assert len(found) == len(set(found))
    assert set(found) == set(expected)


@pytest.mark.parametrize(
    "text",
    [
        "beta",
        "=1",
        "beta=",
        "beta=1,,2",
        "beta=1,1",
        "beta=1..x",
        "beta=2..1",
        "beta=0..1:log",
        "beta=1..2:exp",
        "b=1..inf",
    ],
)
def test_what_is_no_space_is_refused(text):
    with pytest.raises(InputError, match=r"^--vary "):
        read_space([text])


def test_a_key_twice_nothing_at_all_and_a_grid_of_a_range_are_refused():
    with pytest.raises(InputError, match="given twice"):
        read_space(["beta=1", "beta=2"])
    with pytest.raises(InputError, match="nothing to vary"):
        read_space([])
    with pytest.raises(InputError, match="--vary beta: a grid needs values"):
        cells(read_space(["beta=0..1"]))


def test_a_cell_has_a_name_that_is_a_folder():
    assert cell_name({"beta": "0.5", "model": "a_b-c"}) == "beta=0.5,model=a_b-c"
    changed = cell_name({"beta": "0.5", "model": "a/b c"})
    assert changed.startswith("beta=0.5,model=a_b_c~")
    assert changed == cell_name({"beta": "0.5", "model": "a/b c"})


@given(st.lists(st.text("ab_ /~,={}[]", min_size=1, max_size=3) | st.text("ab", min_size=400), unique=True))
def test_cells_have_names_of_their_own_that_file_systems_take(values):
    names = [cell_name({"item_text": value}) for value in values]
    assert len(set(names)) == len(values)
    assert all(len(name) < 200 and "/" not in name for name in names)
