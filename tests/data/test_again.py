"""A second preparation into the same folder: nothing to do for the same input and options, refused for others."""

import importlib.metadata
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import public_shapes as shapes
import pytest
from hand_written import INTER, ITEM

from cftrec.artefacts import new_folder
from cftrec.cli import main
from cftrec.data import PrepareOptions, already_prepared, prepare
from cftrec.data.again import names_beside
from cftrec.data.options import named_options
from cftrec.data.sources import read_source
from cftrec.errors import InputError


@pytest.fixture
def made(atomic: Path, tmp_path: Path) -> tuple[Path, Path]:
    prepare(atomic, "recbole").save(tmp_path / "d")
    return atomic, tmp_path / "d"


def dataset_of(log: Path) -> Path:
    """Write the manifest that a preparation of a log's file leaves, for public shapes are too short to be split."""
    options = PrepareOptions()
    facts = read_source(log, "auto", options).facts
    facts["names_beside"] = names_beside(log, [file["name"] for file in facts["files"]])
    out = log.parent / "made"
    with new_folder(out, "dataset", {"source": facts, "options": named_options(options)}):
        pass
    return out


def test_the_same_again_is_nothing_to_do(made: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = made
    assert already_prepared(out, source, "recbole", PrepareOptions())
    same = PrepareOptions(protocol="leave-one-out", memory=1.0)  # what the options say already, and what has no effect
    assert already_prepared(out, str(source), "auto", same)
    (source / "notes").mkdir()
    moved = source.rename(tmp_path / "elsewhere")
    assert already_prepared(out, moved, "auto", PrepareOptions())
    assert not already_prepared(tmp_path / "new", moved, "auto", PrepareOptions())


@pytest.mark.parametrize(
    ("change", "options", "differs"),
    [
        ({"ml.inter": INTER.replace("3\t30", "3\t31")}, {}, r"other input \(ml.inter differs\)"),
        ({"ml.item": ITEM + "d\tD\t1990\tWar\n"}, {}, r"other input \(ml.item differs\)"),
        ({"more.inter": INTER}, {}, "files have come or gone"),
        ({}, {"seed": 4, "repeats": "first"}, r"other options \(repeats, seed\)"),
    ],
)
def test_anything_else_is_refused(
    made: tuple[Path, Path], folder: Callable[..., Path], change: dict[str, str], options: dict[str, Any], differs: str
) -> None:
    source, out = made
    folder(change)
    with pytest.raises(InputError, match=f"not empty, it holds a dataset of .*{differs}.*; name another one"):
        already_prepared(out, source, "recbole", PrepareOptions(**options))


def test_another_version_may_make_another_dataset(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99")
    with pytest.raises(InputError, match="another version of cftrec"):
        already_prepared(made[1], made[0], "recbole", PrepareOptions())


def test_a_damaged_dataset_is_not_taken_for_whole(made: tuple[Path, Path]) -> None:
    (made[1] / "events.arrow").write_bytes(b"ARROW1")
    with pytest.raises(InputError, match=r"events.arrow: missing or cut"):
        already_prepared(made[1], made[0], "recbole", PrepareOptions())


def test_a_file_of_items_counts_as_input(folder: Callable[..., Path], tmp_path: Path) -> None:
    source = folder({"log.csv": "user_id,item_id\nu,a\nu,b\nu,a\n"})
    items = folder({"items.csv": "item_id,title\na,A\nb,B\n"}, "beside") / "items.csv"
    options = PrepareOptions(items=str(items))
    prepare(source / "log.csv", "table", options).save(tmp_path / "d")
    assert already_prepared(tmp_path / "d", source / "log.csv", "table", options)
    items.write_text("item_id,title\na,A\nb,C\n")
    with pytest.raises(InputError, match=r"items.csv differs"):
        already_prepared(tmp_path / "d", source / "log.csv", "table", options)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("AMAZON_2014", "reviews_Video_Games_5.json"),
        ("AMAZON_2023", "Video_Games.jsonl"),
        ("STEAM", "steam_reviews.json"),
        ("STEAM_OWNED", "australian_users_items.json"),
        ("GOODREADS", "goodreads_interactions_children.json"),
        ("YELP", "yelp_academic_dataset_review.json"),
        ("MINIONEREC", "train/Office_5_2016-10-2018-11.csv"),
    ],
)
def test_another_file_beside_the_one_read_is_other_input(folder: Callable[..., Path], shape: str, name: str) -> None:
    source = folder(getattr(shapes, shape))
    log = source / name
    out = dataset_of(log)
    assert already_prepared(out, log, "auto", PrepareOptions())
    for file in list(source.rglob(log.name)):  # a split's other parts have its name
        shutil.copy(file, file.with_name(f"other_{file.name}"))
    with pytest.raises(InputError, match=rf"other input \(other_{re.escape(log.name)}\)"):
        already_prepared(out, log.with_name(f"other_{log.name}"), "auto", PrepareOptions())


def test_the_other_log_of_a_folder_is_other_input(folder: Callable[..., Path]) -> None:
    path = folder(shapes.LASTFM_HETREC)
    out = dataset_of(path / "user_taggedartists-timestamps.dat")
    with pytest.raises(InputError, match=r"other input \(user_artists.dat\)"):
        already_prepared(out, path / "user_artists.dat", "auto", PrepareOptions())


def test_another_table_in_the_same_folder_is_refused(
    folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "user_id,item_id,title\nu,a,A\nu,b,B\nu,a,A\n"
    path = folder({"log.csv": log, "other.csv": log + "v,b,B\n", "items.csv": "item_id,title\na,A\nb,B\n"})
    for words in ([], ["--items", str(path / "items.csv")]):
        out = str(tmp_path / f"d{len(words)}")
        main(["prepare", str(path / "log.csv"), "--out", out, *words])
        capsys.readouterr()
        main(["prepare", str(path / "log.csv"), "--out", out, *words])
        assert "already prepared" in capsys.readouterr().out
        for other in ("other.csv", "items.csv"):
            with pytest.raises(SystemExit) as stop:
                main(["prepare", str(path / other), "--out", out, *words])
            assert stop.value.code == 2 and f"other input ({other})" in capsys.readouterr().err


def test_the_command_says_so_and_leaves_the_folder_alone(
    atomic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(atomic), "--out", str(tmp_path / "d")]
    main(command)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "d").iterdir()}
    capsys.readouterr()
    main(command)
    assert "nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "d").iterdir()} == before
