"""Long files of lines: blocks, limits, encodings, and damage."""

import gzip
from pathlib import Path

import pytest

from cftrec.data.sources import compressed, lines
from cftrec.data.sources.lines import first_lines, read_fields
from cftrec.errors import InputError

FIELDS = ("a", "b")


def test_fields_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(
        b'\xef\xbb\xbfa\tb\r\n1\t"x\r\n\r\none\n2\ty"\ntoo\tmany\there\ncaf\xe9\t\n\xe2\x82\xac\t\x00\n3\tend'
    )
    for block in (*range(1, 20), 10**6):
        monkeypatch.setattr(lines, "_BLOCK", block)
        found = read_fields(path, FIELDS, header=FIELDS)
        assert found.frame.rows() == [("1", '"x'), ("2", 'y"'), ("café", ""), ("3", "end")]
        assert found.malformed == 3
        assert found.facts["malformed_lines"] == [4, 6, 8]
        assert (found.facts["lines"], found.facts["latin_1_lines"]) == (7, 1)
    assert read_fields(path, FIELDS, limit=2).frame.rows() == [("a", "b"), ("1", '"x')]
    assert "sha256" not in read_fields(path, FIELDS, limit=2).facts


def test_first_lines_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 2**17 + b"\n" + b"b" * 2**18)
    assert first_lines(path) == [b"a" * 2**17]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damaged_files_are_refused(tmp_path: Path, kind: str, damage: str) -> None:
    compress = gzip.compress if kind == "gzip" else pytest.importorskip("backports.zstd").compress
    content = bytearray(compress("".join(f"{n}\t{n * n}\n" for n in range(5000)).encode()))
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 0xFF
        content[-5] ^= 0xFF  # zstd may have no checksum, but its blocks end here
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged or ends early|lines are no"):
        read_fields(path, FIELDS)


def test_zstd_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x28\xb5\x2f\xfd rest")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(compressed.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install backports.zstd"):
        read_fields(path, FIELDS)


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, reason in (
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        ("1\t2\n".encode("utf-16"), "is it the right file"),
        (b"only one\n", "1 of 1 lines are no lines of 2 fields .line 1.; is it the right file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=reason):
            read_fields(path, FIELDS)
    path.write_bytes(b"x\ty\n")
    with pytest.raises(InputError, match="its first line is not a, b"):
        read_fields(path, FIELDS, header=FIELDS)
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        read_fields(tmp_path / "nowhere", FIELDS)


def test_a_long_file_shows_how_far_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compressed, "_LONG", 2**20)
    monkeypatch.setattr(lines, "_BLOCK", 2**18)
    path = tmp_path / "x.tsv"
    path.write_bytes(b"1\t2\n" * 2**19)
    read_fields(path, FIELDS, limit=3)
    assert capsys.readouterr().err == ""
    assert read_fields(path, FIELDS).frame.height == 2**19
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["read x.tsv (MiB): 1/2", "read x.tsv (MiB): 2/2"]
