"""Timestamps in any unit come out in seconds, whole where they were."""

import polars as pl
import pytest

from cftrec.data.sources.lines import Lines
from cftrec.data.sources.log import all_rows, event_frame, item_frame, make_log

ITEMS = item_frame(pl.Series(["a"]), pl.Series(["A"]), pl.DataFrame())


@pytest.mark.parametrize(
    ("times", "expected", "unit"),
    [
        ([1_500_000_000, 5], [1_500_000_000, 5], "as given"),
        ([1_500_000_000_000, 1_500_000_001_000], [1_500_000_000, 1_500_000_001], "milliseconds, brought to seconds"),
        ([1_500_000_000_500], [1_500_000_000.5], "milliseconds, brought to seconds"),
        ([1_500_000_000_000_000], [1_500_000_000], "microseconds, brought to seconds"),
        ([1_500_000_000_000_000_000], [1_500_000_000], "nanoseconds, brought to seconds"),
        ([1_500_000_000_000, 7, 8], [1_500_000_000_000, 7, 8], "as given"),
        ([None, None], [None, None], None),
    ],
)
def test_units(times: list[float | None], expected: list[float | None], unit: str | None) -> None:
    stamps = pl.Series(times, dtype=None if times[0] is not None else pl.Int64)
    events = event_frame(pl.Series(["u"] * len(times)), pl.Series(["a"] * len(times)), stamps)
    sheet = Lines(None, pl.DataFrame(), 0, {"name": "x"})
    log = make_log("x", "x", [sheet], events, ITEMS, rows=all_rows(len(times)), columns={})
    assert log.events["timestamp"].to_list() == expected
    assert log.events["timestamp"].dtype == (pl.Float64 if isinstance(expected[0], float) else pl.Int64)
    assert log.facts["timestamp_unit"] == unit
