"""Windows against a loop that slides them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cftrec.data.windows import window_starts


@given(st.integers(1, 12), st.data())
def test_a_window_moves_every_stride_items(window, data):
    stride = data.draw(st.integers(1, window))
    places = np.arange(60)
    starts = window_starts(places, window, stride)
    seen = places - starts
    assert (starts >= 0).all()
    assert (seen[places <= window] == places[places <= window]).all(), "what there is where there is no more"
    later = seen[places > window]
    assert later.min() >= window - stride + 1
    assert later.max() <= window
    assert (starts % stride == 0).all()
    assert set(np.diff(starts)) <= {0, stride}
    for place, start in zip(places, starts, strict=True):
        slid = 0
        while place - slid > window:
            slid += stride
        assert start == slid


def test_stride_one_is_the_plain_sliding_window():
    places = np.arange(30)
    assert window_starts(places, 7, 1).tolist() == [max(0, place - 7) for place in places]
