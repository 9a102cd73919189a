"""Records from JSON and Python literals against the one-line readers of the standard library, in blocks of any size."""

import ast
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cftrec.data.sources import lines
from cftrec.data.sources.records import first_record, read_records

SCHEMA = {"a": pl.String, "b": pl.String}
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUE = TEXT | st.none() | st.sampled_from(["True", "None", "it's", 'a "b"', "\\", "u'x'", "a\tb", ", 'b': "])
RECORD = st.fixed_dictionaries(
    {"a": VALUE, "b": VALUE, "c": st.lists(VALUE | st.booleans() | st.integers(), max_size=2)}
)
NOISE = st.sampled_from(
    ["noise", "{", "{'a': 1", '{"a": "x"} {"b": 1}', "[1]", "1", "{'a': f()}", '{"a": tru}', "None"]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "x.json"


def read(path: Path, content: bytes, block: int = 2**23) -> tuple[list[tuple], list[int]]:
    """Return the rows and the numbers of broken lines."""
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        patch.setattr(lines, "_SHOWN", 10**6)
        found = read_records(path, SCHEMA)
    return found.frame.rows(), found.facts["malformed_lines"]


def written(record: dict, form: str) -> str:
    if form == "json":
        return json.dumps(record, ensure_ascii=False)
    if form == "unicode":  # as Python 2 writes texts
        return "{" + ", ".join(f"u{key!r}: {text(value)}" for key, value in record.items()) + "}"
    return repr(record)


def text(value: object) -> str:
    return f"u{value!r}" if isinstance(value, str) else repr(value)


@given(
    records=st.lists(RECORD, min_size=1, max_size=24),
    noise=st.lists(st.tuples(st.integers(0, 24), NOISE), max_size=6),
    form=st.sampled_from(["json", "literal", "unicode", "mixed"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    block=st.integers(30, 600),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_those_of_the_standard_library(path, records, noise, form, end, block) -> None:
    forms = ["json", "literal"] * len(records) if form == "mixed" else [form] * len(records)
    found = [written(record, form) for record, form in zip(records, forms, strict=False)]
    for place, line in noise[: len(records)]:
        found.insert(place, line)
    content = b"\xef\xbb\xbf" + (end.join(found) + end).encode()
    expected, broken = naive(content)
    assert read(path, content, block) == (expected, broken)
    assert read(path, content) == (expected, broken)


def naive(content: bytes) -> tuple[list[tuple], list[int]]:
    rows, broken = [], []
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        for parse in (json.loads, ast.literal_eval):
            try:
                record = parse(line.strip())
                break
            except (ValueError, SyntaxError):
                record = None
        if isinstance(record, dict):
            rows.append((record.get("a"), record.get("b")))
        else:
            broken.append(number)
    return rows, broken


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"a": NaN, "b": -Infinity}', (None, None)),
        (b'{"a": 5, "b": 1.5}', ("5", "1.5")),
        (b"{'a': nan, 'b': 'x: nan'}", (None, "x: nan")),
        (b"{'a': (1, 2), 'b': 'x'}", ("[1, 2]", "x")),
        (b'{"a": "\\ud83d", "b": "\\ud83c\\udfac"}', ("\0", "🎬")),
        (b"{'a': 'caf\xe9', 'b': '\xe9'}", ("café", "é")),
        (b'{"a": "caf\xc3\xa9"}', ("café", None)),
        (b'{"b": {"a": 1}, "c": ' + b"[" * 50 + b"]" * 50 + b"}", (None, '{"a": 1}')),
    ],
)
def test_odd_lines(path: Path, line: bytes, row: tuple) -> None:
    assert read(path, line) == ([row], [])


def test_nothing_is_evaluated(path: Path) -> None:
    marker = path.with_name("marker")
    attack = f"{{'a': __import__('pathlib').Path({str(marker)!r}).write_text('x')}}\n".encode()
    assert read(path, attack + b"{'a': 'x'}\n") == ([("x", None)], [1])
    assert not marker.exists()


def test_the_first_record_comes_after_what_is_none(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf\n# comment\n{'a': u'x'}\n")
    assert first_record(path) == {"a": "x"}
    path.write_bytes(bytes(1000))
    assert first_record(path) == {}
