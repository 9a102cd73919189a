"""Split CSVs of D3 and MiniOneRec, taken as given, from the file to the samples of the Dataset."""

from collections.abc import Callable
from pathlib import Path

import public_shapes as shapes
import pytest

from cftrec.data import SPLITS, Dataset, PrepareOptions, prepare
from cftrec.data.dataset import CONTEXT
from cftrec.data.sources import SourceOptions, read_source, recognise
from cftrec.errors import InputError

Write = Callable[..., Path]
PLAIN = SourceOptions()
NAME = "Games_5_2017-10-2018-11"


def samples(dataset: Dataset, window: int | None = None) -> dict[str, list[tuple[list[str], str]]]:
    """Return the titles of each sample's history and target, a list a split."""
    titles = dataset.items["title"].to_list()
    return {
        split: [
            ([titles[item] for item in dataset.history(position, window)], titles[dataset.events[position]])
            for position in dataset.targets(split).tolist()
        ]
        for split in SPLITS
    }


def test_d3(folder: Write) -> None:
    path = folder(shapes.D3)
    format, seen = recognise(path)
    assert format == "splits" and "in the form of D3: train/Games" in seen and seen.endswith(f"info/{NAME}.txt")
    log = read_source(path, "auto", PLAIN)
    assert log.events.rows() == [
        ("A1", "0", 1500000000),
        ("A1", "1", 1500000010),
        ("A1", "2", 1500000030),
        ("A1", "0", 1500000040),
        ("A2", "2", 1500000005),
        ("A2", "0", 1500000020),
        ("A2 [test row 2]", "1", 1500000001),
        ("A2 [test row 2]", "0", 1500000020),
        ("A2 [test row 2]", "1", 1500000050),
    ]
    assert log.split is not None
    assert log.split.to_list() == [CONTEXT, 0, 1, 2, CONTEXT, 0, CONTEXT, CONTEXT, 2]
    assert log.items.rows() == [
        ("0", 'Dirt "3"', "B0"),
        ("1", "Assassin's Creed &amp; Co", "B1"),
        ("2", "A\ttab", "B2"),
        ("3", "Unused", None),
    ]
    dropped = {"malformed": 1, "without_history": 1, "without_user": 0, "without_item": 0}
    assert log.facts["log_rows"] == {"in": 7, "kept": 5, "dropped": dropped}
    assert log.facts["rows_that_continue_no_other"] == 1
    assert log.facts["item_rows"]["dropped"]["malformed"] == 1


def test_the_dataset_has_the_given_samples(folder: Write) -> None:
    data = prepare(folder(shapes.D3), options=PrepareOptions(seed=3))
    creed, dirt = "Assassin's Creed & Co", 'Dirt "3"'
    assert samples(data, window=2) == {
        "train": [([dirt], creed), (["A tab"], dirt)],
        "validation": [([dirt, creed], "A tab")],
        "test": [([creed, "A tab"], dirt), ([creed, dirt], creed)],
    }
    assert data.item_counts().tolist() == [1, 1, 0]
    assert data.manifest["split"]["rule"] == "given by the source"
    assert data.manifest["split"]["events_in_histories_only"] == 4
    read = data.manifest["steps"][0]
    assert (read["step"], read["rows"]["in"], read["rows"]["kept"]) == ("read", 7, 5)
    assert data.manifest["split"]["parts"]["train"]["events"] == 2


def test_given_splits_survive_the_folder(folder: Write, tmp_path: Path) -> None:
    data = prepare(folder(shapes.MINIONEREC))
    data.save(tmp_path / "d")
    loaded = Dataset.load(tmp_path / "d")
    assert samples(loaded) == {
        "train": [(["Pen, red"], "Paper")],
        "validation": [],
        "test": [(["Pen, red", "Paper"], "Ink")],
    }
    assert loaded.items["sid"].to_list() == ["<a_1> <b_2> <c_3>", "<a_1> <b_2> <c_4>", "<a_2> <b_0> <c_0>"]
    assert loaded.timestamps is None


def test_without_info_the_rows_tell_titles_and_semantic_ids(folder: Write) -> None:
    files = {name.split("/")[0] + ".csv": text for name, text in shapes.MINIONEREC.items() if "info" not in name}
    log = read_source(folder(files), "auto", PLAIN)
    assert dict(log.items.select("item_id", "title").rows()) == {"7": "Pen, red", "8": "Paper", "9": "Ink"}
    assert dict(log.items.select("item_id", "sid").rows())["8"] == "<a_1> <b_2> <c_4>"


def test_items_that_info_lacks_have_the_titles_of_histories(folder: Write) -> None:
    info = "<a_1><b_2><c_4>\tPaper, as listed\t8\n<a_2><b_0><c_0>\t\t9\n"
    log = read_source(folder({**shapes.MINIONEREC, "info/Office_5_2016-10-2018-11.txt": info}), "auto", PLAIN)
    assert log.items.select("item_id", "title").rows() == [("8", "Paper, as listed"), ("9", "Ink"), ("7", "Pen, red")]


def test_one_of_several_data_sets_is_named_by_its_csv(folder: Write) -> None:
    other = {name.replace("Office", "Toys"): text for name, text in shapes.MINIONEREC.items()}
    path = folder({**shapes.MINIONEREC, **other})
    with pytest.raises(InputError, match=r"several data sets in train .Office.*, Toys.*; name the CSV of one"):
        recognise(path)
    assert read_source(path / "train" / "Toys_5_2016-10-2018-11.csv", "auto", PLAIN).events.height == 3


def test_refusals(folder: Write) -> None:
    with pytest.raises(InputError, match="no split CSVs"):
        read_source(folder({"train.csv": "user_id\n"}, "a"), "splits", PLAIN)
    head = "user_id,item_id\nu,1\n"
    with pytest.raises(InputError, match="no column 'history_item_id'"):
        read_source(folder({"train.csv": head, "test.csv": head}, "b"), "splits", PLAIN)
    nothing = "user_id,history_item_id,item_id\nu,oops,1\n"
    with pytest.raises(InputError, match="no row holds a history and its target"):
        read_source(folder({"train.csv": nothing, "test.csv": nothing}, "c"), "splits", PLAIN)
    trained = {name: text for name, text in shapes.MINIONEREC.items() if not name.startswith("test")}
    untested = {**trained, "test/Office_5_2016-10-2018-11.csv": shapes.MINIONEREC_HEAD}
    with pytest.raises(InputError, match="split without any test target"):
        prepare(folder(untested, "d"))
