"""A table of Parquet or JSON lines read in parts against the same file read whole."""

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data.sources.log import event_frame
from cftrec.data.sources.sheet import Sheet, read_table
from cftrec.data.sources.typed import read_typed_log
from cftrec.errors import InputError

NAMES = ("user", "item", "time", "title")
TEXT = st.text(st.sampled_from('ab é,"\n'), max_size=6)
COLUMNS = st.sampled_from(
    [
        st.integers(0, 5),
        st.sampled_from([1.0, 2.0, 3.0]),
        st.sampled_from([1.0, 2.0, 2.5, 1e17]),
        st.sampled_from(["u", "v", "ü"]),
        st.sampled_from([1.0, 2.0, "u"]),
        st.sampled_from([1, 2.0, "u"]),
    ]
)
TIMES = st.sampled_from([st.integers(0, 99), st.sampled_from([1.0, 7.0]), st.sampled_from([1.0, 2.5, 1722902400.5])])


def take(sheet: Sheet) -> pl.DataFrame:
    events = event_frame(sheet.ids("user"), sheet.ids("item"), sheet.times("time"))
    return events.with_columns(sheet.texts(["title"]).to_series().alias("title"))


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.cast({"user": pl.String, "item": pl.String, "title": pl.String})


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["parquet", "jsonl"]), st.integers(1, 5))
def test_parts_make_the_same_log(data: st.DataObject, ending: str, size: int) -> None:
    """Whole and broken numbers, and columns that are missing or null in some parts."""
    columns = {"user": data.draw(COLUMNS), "item": data.draw(COLUMNS), "time": data.draw(TIMES)}
    row = st.fixed_dictionaries(columns, optional={"title": st.none() | TEXT, "other": st.lists(st.integers(0, 3))})
    rows = [{"title": "t"}] + [{}] * 3
    rows = [data.draw(row) | first for first in rows] + data.draw(st.lists(row, max_size=8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"log.{ending}")
        if ending == "parquet":
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(path, row_group_size=2)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        whole = read_table(path)
        read = read_typed_log(path, NAMES, take, rows=size, block=40 * size)
        assert plain(read.frame).equals(take(whole))
        assert isinstance(read.frame.schema["user"], pl.Categorical)
        assert read.facts == whole.facts


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_bad_value_of_a_later_part_is_named_by_its_row(tmp_path: Path, ending: str) -> None:
    def refusal(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / f"log.{ending}"
        frame = pl.DataFrame(rows, infer_schema_length=None)
        frame.write_parquet(path) if ending == "parquet" else frame.write_ndjson(path)
        with pytest.raises(InputError) as caught:
            read_typed_log(path, NAMES, take, rows=2, block=60)
        return str(caught.value)

    good = {"user": "u", "item": 1, "time": 1.5, "title": "t"}
    assert "row 5: 'time' is" in refusal([good] * 4 + [good | {"time": None}] + [good])
    assert "row 5: 'user' is empty" in refusal([good] * 4 + [good | {"user": " "}])
    assert "no column 'item'; its columns are user, time, title" in refusal(
        [{key: value for key, value in good.items() if key != "item"}] * 5
    )


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": 1, "item": 2, "time": 3, "title": "t"}\n' * 4 + "[]\n")
    with pytest.raises(InputError, match=r"row 5 \(line 5\): not a JSON object"):
        read_typed_log(path, NAMES, take, block=60)
    path.write_text("\n \n")
    with pytest.raises(InputError, match=r"log.jsonl: the file is empty"):
        read_typed_log(path, NAMES, take)
    (tmp_path / "log.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"log.parquet: not a readable Parquet file"):
        read_typed_log(tmp_path / "log.parquet", NAMES, take)


@pytest.mark.parametrize(
    "values",
    [
        [[1.0, 2.0], ["u"]],  # a part of whole floats, a part of texts
        [[1.5], ["u"]],
        [[7.0], [True]],
        [[{"a": 1}], [{"a": [1]}]],
        [["u"], [{"a": 1}]],
        [[None], [None]],
        [[1e300], [1.0]],
    ],
)
@pytest.mark.parametrize("name", ["user", "time", "title"])
def test_parts_that_do_not_fit_together_are_read_whole(tmp_path: Path, values: list[list[Any]], name: str) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"user": "u", "item": 1, "time": 1, "title": "t"} | {name: value} for part in values for value in part * 3]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert_same_as_whole(path, block=50)


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64, pl.Decimal(20, 2), pl.Boolean, pl.Categorical, pl.Int8])
def test_kinds_of_parquet_columns(tmp_path: Path, dtype: pl.DataType) -> None:
    times = pl.Series("time", [1, 0, 1, 1, 0]).cast(dtype if dtype != pl.Categorical else pl.Int64)
    ids = pl.Series("user", ["1", "2", "1", "2", "3"] if dtype == pl.Categorical else [1, 0, 0, 1, 1]).cast(dtype)
    if dtype in (pl.Float32, pl.Float64):
        times, ids = times + 1700000128.5, ids + 0.5
    frame = pl.DataFrame([ids, ids.alias("item"), times, pl.Series("title", list("abcde"))])
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=2)
    assert_same_as_whole(tmp_path / "log.parquet", rows=2)


def assert_same_as_whole(path: Path, **sizes: int) -> None:
    """Read in parts and whole give the same, or the same message."""
    try:
        whole = take(read_table(path))
    except InputError as error:
        with pytest.raises(InputError) as caught:
            read_typed_log(path, NAMES, take, **sizes)
        assert str(caught.value) == str(error)
    else:
        assert plain(read_typed_log(path, NAMES, take, **sizes).frame).equals(whole)


def test_a_table_without_rows_or_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame(schema={"user": pl.Int64, "item": pl.String, "time": pl.Float64, "title": pl.String}).write_parquet(
        path
    )
    assert read_typed_log(path, NAMES, take).frame.height == 0
    pl.DataFrame().write_parquet(path)
    with pytest.raises(InputError, match="no column 'user'; its columns are none"):
        read_typed_log(path, NAMES, take)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({name: ["1"] * 999 for name in NAMES}).write_parquet(path, compression="zstd")
    content = path.read_bytes()
    for place in (6, 40, len(content) - 60):
        path.write_bytes(content[:place] + b"\xff" * 12 + content[place + 12 :])
        with pytest.raises(InputError, match="not a readable Parquet file"):
            read_typed_log(path, NAMES, take)
