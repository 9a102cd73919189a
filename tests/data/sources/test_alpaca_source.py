"""The authors' Alpaca JSON, read: each record is a user of its own."""

from collections.abc import Callable
from pathlib import Path

import public_shapes as shapes
import pytest

from cftrec.data.dataset import CONTEXT
from cftrec.data.sources import SourceOptions, read_source, recognise
from cftrec.errors import InputError

Write = Callable[..., Path]
PLAIN = SourceOptions()


def test_records(folder: Write) -> None:
    path = folder(shapes.ALPACA)
    assert recognise(path) == ("alpaca", "Alpaca JSON: train.json, test.json")
    log = read_source(path, "auto", PLAIN)
    assert [row[:2] for row in log.events.rows()] == [
        ("train 1", "Dirt 3"),
        ("train 1", 'Tom &amp;amp; "Jerry"'),
        ("train 1", "Portal"),
        ("test 1", "Portal"),
        ("test 1", "Dirt 3"),
    ]
    assert log.split is not None
    assert log.split.to_list() == [CONTEXT, CONTEXT, 0, CONTEXT, 2]
    dropped = {"malformed": 1, "without_history": 1, "without_user": 0, "without_item": 0}
    assert log.facts["log_rows"] == {"in": 4, "kept": 2, "dropped": dropped}


@pytest.mark.parametrize(
    ("content", "reason"), [("{}", "not a list of records"), ("[{", "cannot be read as JSON"), (b"\xff", "as JSON")]
)
def test_refusals(folder: Write, content: str | bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_source(folder({**shapes.ALPACA, "train.json": content}), "alpaca", PLAIN)
    with pytest.raises(InputError, match="no Alpaca JSON"):
        read_source(folder({"x": ""}, "empty"), "alpaca", PLAIN)
