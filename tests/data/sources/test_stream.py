"""A log read in blocks against the same file read whole."""

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data.sources.log import event_frame
from cftrec.data.sources.sheet import Sheet, read_text
from cftrec.data.sources.stream import read_log
from cftrec.errors import InputError

TEXT = st.text(st.sampled_from('ab é,"\n'), max_size=6)
ROWS = st.lists(st.tuples(st.sampled_from(["u", "v", "ü"]), TEXT, st.integers(0, 99)), min_size=1, max_size=12)


def take(sheet: Sheet) -> pl.DataFrame:
    events = event_frame(sheet.ids("user"), sheet.ids("user"), sheet.times("time"))
    return events.with_columns(sheet.column("title").alias("title"))


@settings(max_examples=30, deadline=None)
@given(ROWS, st.integers(1, 60), st.booleans())
def test_blocks_make_the_same_log(rows: list[tuple[str, str, int]], block: int, quotes: bool) -> None:
    """Whatever stands at the end of a block: half a character, a quote, a line break inside a field."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.csv")
        if quotes:
            text = pl.DataFrame(rows, schema=["user", "title", "time"], orient="row").write_csv(quote_style="always")
        else:
            plain = [(user, title.translate(str.maketrans("", "", '\n,"')), time) for user, title, time in rows]
            text = "user,title,time\n" + "\n".join(f"{user},{title},{time}" for user, title, time in plain)
        path.write_text(text, newline="")
        whole = take(read_text(path, ",", quotes=quotes))
        read = read_log(path, ",", take, quotes=quotes, block=block)
        assert read.frame.cast({"user": pl.String, "item": pl.String, "title": pl.String}).equals(whole)
        assert isinstance(read.frame.schema["user"], pl.Categorical)
        assert read.facts == read_text(path, ",", quotes=quotes).facts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u,t,noon\n", "row 4: 'time' is 'noon', which is no finite number"),
        (" ,t,1\n", "row 4: 'user' is empty"),
        ("u,t\n", "row 4 (line 5): 2 fields, where 3 are due"),
        ("u,t,1,2\n", "row 4 (line 5): 4 fields, where 3 are due"),
        ("u,t\0,1\n", "not a text file (a zero byte in line 5)"),
    ],
)
def test_a_broken_row_of_a_later_block_is_named_by_its_place_in_the_file(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,title,time\n" + "u,t,1\n" * 3 + line + "u,t,1\n")
    with pytest.raises(InputError) as caught:
        read_log(path, ",", take, quotes=True, block=8)
    assert message in str(caught.value)


def test_fractions_in_one_block_keep_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\ufeffuser,title,time\r\nu,t,1\r\nu,t,2.5\r\n\r\nu,t,3\r\n")
    assert read_log(path, ",", take, quotes=True, block=4).frame["timestamp"].to_list() == [1.0, 2.5, 3.0]


def test_nothing_is_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch()
    with pytest.raises(InputError, match=r"log.csv: the file is empty"):
        read_log(tmp_path / "log.csv", ",", take)
