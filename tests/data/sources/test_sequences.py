"""RecBole's sequences, read block by block, against the longest sequence of each user in plain Python."""

import tempfile
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data.sources import SourceOptions, read_source, recbole
from cftrec.data.sources.stream import read_log
from cftrec.errors import InputError

HEAD = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
USERS, ITEMS = ["u", "v", "ü", "10"], ["a", "b", "é", "7"]

LOGS = st.fixed_dictionaries({user: st.lists(st.sampled_from(ITEMS), min_size=1, max_size=6) for user in USERS})


def line(user: str, sequence: list[str]) -> str:
    return f"{user}\t{' '.join(sequence[:-1])}\t{sequence[-1]}\n"


def source(folder: str | Path, files: list[str]) -> Path:
    for number, lines in enumerate(files):
        Path(folder, f"x.{number}.inter").write_text(HEAD + lines)
    Path(folder, "x.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tT{i}\n" for i in ITEMS))
    return Path(folder)


@settings(max_examples=40, deadline=None)
@given(LOGS, st.data(), st.integers(1, 80))
def test_blocks_keep_each_users_longest_sequence(log: dict[str, list[str]], data: st.DataObject, block: int) -> None:
    """Its beginnings stand in any order and in either file, users mixed."""
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(USERS), st.integers(1, 6), st.booleans()), min_size=1))
    rows = [(user, log[user][:length], second) for user, length, second in drawn]
    files = ["".join(line(user, tokens) for user, tokens, there in rows if there == file) for file in (False, True)]
    files = [file for file in files if file]
    ordered = [row for file in (False, True) for row in rows if row[2] == file]
    longest: dict[str, list[str]] = {}
    for user, tokens, _ in ordered:
        longest[user] = max(longest.get(user, []), tokens, key=len)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recbole, "read_log", partial(read_log, block=block))
        found = read_source(source(folder, files), "recbole", SourceOptions())
    expected = [(user, item) for user, tokens in longest.items() for item in tokens]
    assert [row[:2] for row in found.events.rows()] == expected
    dropped = {"beginnings_of_longer_sequences": len(rows) - len(longest)}
    assert found.facts["log_rows"] == {"in": len(rows), "kept": len(longest), "dropped": dropped}
    assert [file["rows"] for file in found.facts["files"][:-1]] == [file.count("\n") for file in files]
    assert isinstance(found.events.schema["item"], pl.Categorical)


@pytest.mark.parametrize("block", [8, 2**24])
@pytest.mark.parametrize(
    ("files", "wrong", "longest"),
    [
        ([[("u", "ab"), ("v", "a"), ("u", "ba")]], "x.0.inter, row 3 (line 4)", "x.0.inter, row 1 (line 2)"),
        ([[("v", "ab"), ("u", "b")], [("u", "ab")]], "x.0.inter, row 2 (line 3)", "x.1.inter, row 1 (line 2)"),
    ],
)
def test_what_does_not_continue_is_named_by_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[list[tuple[str, str]]],
    wrong: str,
    longest: str,
    block: int,
) -> None:
    """Also where the two rows stand in other blocks or files."""
    monkeypatch.setattr(recbole, "read_log", partial(read_log, block=block))
    path = source(tmp_path, ["".join(line(user, list(tokens)) for user, tokens in rows) for rows in files])
    with pytest.raises(InputError) as caught:
        read_source(path, "recbole", SourceOptions())
    message = str(caught.value)
    assert f"{wrong}: the sequence of user 'u'" in message and f"longest ({tmp_path / longest})" in message


def test_an_empty_id_of_a_later_block_is_named_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recbole, "read_log", partial(read_log, block=8))
    path = source(tmp_path, [line("u", ["a"]) + line("v", ["a", "b"]) + line("", ["a"])])
    with pytest.raises(InputError, match=r"row 3 \(line 4\): 'user_id' is empty"):
        read_source(path, "recbole", SourceOptions())
