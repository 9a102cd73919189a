"""Logs that are written by hand."""

import numpy as np
import polars as pl

from cftrec.data.dataset import Dataset


def make_log(histories: list[list[int]], items: int) -> Dataset:
    """Make a leave-one-out log; a user with fewer than three events has training events alone."""
    lengths = np.array([len(history) for history in histories])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], dtype=np.uint8)
    long = lengths > 2
    split[offsets[1:][long] - 1], split[offsets[1:][long] - 2] = 2, 1
    return Dataset(
        items=pl.DataFrame(
            {"item_id": [f"i{item}" for item in range(items)], "title": [f"T{n}" for n in range(items)]}
        ),
        users=pl.Series("user_id", [f"u{user}" for user in range(len(histories))]),
        offsets=offsets,
        events=np.concatenate(histories).astype(np.int32),
        split=split,
        timestamps=None,
        manifest={"name": "made up"},
    )
