import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cftrec.data import SPLITS, Dataset, PrepareOptions, prepare
from cftrec.errors import InputError


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(
        items=pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B\u00e9", "C"], "year": ["1", None, ""]}),
        users=pl.Series("user_id", ["u", "v", "w"]),
        offsets=np.array([0, 4, 5, 8]),
        events=np.array([0, 1, 0, 2, 1, 2, 2, 0], np.int32),
        split=np.array([0, 0, 1, 2, 0, 0, 1, 2], np.uint8),
        timestamps=np.array([1, 2, 3, 4, 1, 5, 6, 7]),
        manifest={"name": "hand"},
    )


def test_reads(dataset: Dataset) -> None:
    assert SPLITS == ("train", "validation", "test")
    assert dataset.user_of(np.arange(8)).tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    assert {split: dataset.targets(split).tolist() for split in SPLITS} == {
        "train": [1],  # the first event of a user has nothing before it
        "validation": [2, 6],
        "test": [3, 7],
    }
    assert dataset.targets("test").dtype == np.int64
    assert dataset.history(3).tolist() == [0, 1, 0]
    assert dataset.history(3, limit=2).tolist() == [1, 0]
    assert dataset.history(7, limit=9).tolist() == [2, 2]
    assert dataset.history(4).tolist() == [] and dataset.history(3, limit=0).tolist() == []
    assert np.shares_memory(dataset.history(3), dataset.events)
    assert dataset.item_counts().tolist() == [1, 2, 1]
    with pytest.raises(InputError, match="unknown split 'dev'; known are train, validation, test"):
        dataset.targets("dev")


@pytest.mark.parametrize("timed", [True, False])
def test_round_trip(dataset: Dataset, tmp_path: Path, timed: bool) -> None:
    if not timed:
        dataset = Dataset(**{**vars(dataset), "timestamps": None})
    dataset.save(tmp_path / "d")
    back = Dataset.load(tmp_path / "d")
    assert back.items.equals(dataset.items) and back.users.equals(dataset.users)
    for name in ("offsets", "events", "split", "timestamps"):
        mine, theirs = getattr(dataset, name), getattr(back, name)
        assert theirs is None if mine is None else (theirs.dtype == mine.dtype and np.array_equal(mine, theirs))
    assert not back.events.flags.owndata and not back.events.flags.writeable  # a view of the mapped file
    assert back.manifest["name"] == "hand" and back.manifest["kind"] == "dataset"
    back.save(tmp_path / "e")
    for name in ("items.arrow", "users.arrow", "events.arrow"):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "e" / name).read_bytes()


def test_a_taken_folder_stays_as_it_is(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").touch()
    with pytest.raises(InputError, match="not empty"):
        dataset.save(tmp_path / "d")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_equal_input_gives_equal_files(tmp_path: Path, atomic: Path) -> None:
    for name in ("one", "two"):
        prepare(atomic, "recbole").save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["events.arrow", "items.arrow", "manifest.json", "users.arrow"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "one" / "manifest.json").read_text()


def spoil_length(folder: Path) -> None:
    pl.DataFrame({"user_id": ["u"], "events": [3]}).write_ipc(folder / "users.arrow")


def spoil_range(folder: Path) -> None:
    events = {"item": np.full(8, 9, np.int32), "split": np.zeros(8, np.uint8)}
    pl.DataFrame(events).write_ipc(folder / "events.arrow")


def spoil_column(folder: Path) -> None:
    pl.DataFrame({"item": np.zeros(8, np.int32)}).write_ipc(folder / "events.arrow")


def spoil_bytes(folder: Path) -> None:
    (folder / "items.arrow").write_bytes(bytes(100))


@pytest.mark.parametrize("spoil", [spoil_length, spoil_range, spoil_column, spoil_bytes])
def test_files_that_do_not_agree_are_refused(dataset: Dataset, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = tmp_path / "d"
    dataset.save(folder)
    spoil(folder)
    with pytest.raises(InputError, match="missing or cut"):
        Dataset.load(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name]["bytes"] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="make the dataset again with `cftrec prepare`") as caught:
        Dataset.load(folder)
    assert "\n" not in str(caught.value)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a dataset folder"):
        Dataset.load(tmp_path)


def test_default_options_are_the_documented_ones() -> None:
    assert PrepareOptions() == PrepareOptions(same_title="merge", repeats="keep", split="leave-one-out", seed=0)
