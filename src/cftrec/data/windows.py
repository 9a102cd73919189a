"""Which part of a history a sample shows."""

import numpy as np

from cftrec.ragged import Ints


def window_starts(places: Ints, window: int, stride: int) -> Ints:
    """Return where each sample's window begins in its user's sequence.

    The start moves every `stride` items, so a sample sees between window - stride + 1 and window items (all of them
    where there are no more), and neighbouring samples share the beginning of their prompts.

    Args:
        places: int64 [n], a target's place in its user's sequence, from 0; the history is what stands before.
        window: W, most items seen.
        stride: s, from 1 (every sample sees its W last items) to W.
    """
    return np.where(places <= window, 0, -(-(places - window) // stride) * stride)
