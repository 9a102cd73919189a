"""Prompts made all at once against prompts made one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.ragged import Ragged
from cftrec.text import Catalogue, Prompt
from cftrec.text.prompt_table import PromptTable

ids = st.lists(st.integers(0, 5), max_size=4)


@st.composite
def cases(draw):
    """A prompt, a catalogue, histories, targets and how many of their tokens follow."""
    closing = draw(st.lists(st.integers(6, 7), min_size=1, max_size=2))
    titles = draw(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5))
    catalogue = Catalogue.build(
        [str(n) for n in range(len(titles))], ["t"] * len(titles), [[*title, *closing] for title in titles]
    )
    suffix, separator = draw(ids), draw(st.one_of(ids, st.just(closing)))
    frame = [[9, *draw(ids)], suffix, separator, closing, [8, *draw(ids)]]
    least = max(len(frame[0]) + len(suffix), len(frame[4])) + catalogue.longest
    bound = draw(st.one_of(st.none(), st.integers(least, least + 12)))
    prompt = Prompt(*(tuple(part) for part in frame), max_tokens=bound)
    items = st.integers(0, len(titles) - 1)
    histories = draw(st.lists(st.lists(items, max_size=5), min_size=1, max_size=5))
    targets = draw(st.lists(items, min_size=len(histories), max_size=len(histories)))
    inputs = [draw(st.integers(0, len(catalogue.sequence(item)))) for item in targets]
    return prompt, catalogue, histories, targets, inputs


@given(cases())
@settings(max_examples=200)
def test_prompts_at_once_are_those_one_by_one(case):
    prompt, catalogue, histories, targets, inputs = case
    table = PromptTable.of(prompt, catalogue)
    ragged = Ragged.of(histories)
    shown = table.factual(ragged, np.array(targets), np.array(inputs))
    unshown = table.counterfactual(np.array(targets), np.array(inputs))
    assert shown.values.dtype == unshown.values.dtype == np.int64
    ends = [catalogue.sequence(item)[:count].tolist() for item, count in zip(targets, inputs, strict=True)]
    assert [part.tolist() for part in shown.split()] == [
        prompt.factual([catalogue.sequence(item) for item in history], catalogue.longest).tolist() + end
        for history, end in zip(histories, ends, strict=True)
    ]
    assert [part.tolist() for part in unshown.split()] == [prompt.counterfactual().tolist() + end for end in ends]


def test_a_bound_that_nothing_fits_is_refused_by_the_name_of_the_longest_title():
    catalogue = Catalogue.build(["a", "b"], ["short", 99 * "t"], [[1, 7], [1, 2, 3, 7]])
    with pytest.raises(
        InputError, match=r"5 tokens .*too few.* 2 and item 'b' \('t{60}\.\.\.'\) 4; at least 6 are needed"
    ):
        PromptTable.of(Prompt((9, 9), (), (7,), (7,), (8,), max_tokens=5), catalogue)
