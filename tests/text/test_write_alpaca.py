"""Samples written as Alpaca JSON, in the published wording, and read back as the same samples."""

import json
from pathlib import Path

import pytest

from cftrec.data import SPLITS, Dataset, prepare
from cftrec.errors import InputError
from cftrec.text import write_alpaca

FILES = {"train": "train.json", "validation": "valid.json", "test": "test.json"}


def samples(data: Dataset, split: str, window: int) -> list[tuple[list[str], str]]:
    titles = data.items["title"].to_list()
    shown = [
        ([titles[item] for item in data.history(at, window)], titles[data.events[at]]) for at in data.targets(split)
    ]
    return [sample for sample in shown if sample[0]]


@pytest.mark.parametrize("prompt", ["alpaca", "d3"])
@pytest.mark.parametrize("window", [3, 10])
def test_what_is_written_reads_back_as_the_same_samples(
    dataset: Dataset, tmp_path: Path, prompt: str, window: int
) -> None:
    written = write_alpaca(dataset, prompt, tmp_path / "json", category="movie", window=window)
    assert written == {split: len(dataset.targets(split)) for split in SPLITS}
    again = prepare(tmp_path / "json", "alpaca")
    for split in SPLITS:
        assert samples(again, split, window) == samples(dataset, split, window)


def test_the_wording_is_the_published_one(dataset: Dataset, tmp_path: Path) -> None:
    write_alpaca(dataset, "alpaca", tmp_path / "json", category="movie", window=2)
    records = json.loads((tmp_path / "json" / "test.json").read_text(encoding="utf-8"))
    titles = dataset.items["title"].to_list()
    at = int(dataset.targets("test")[-1])
    first, second = (titles[item] for item in dataset.events[at - 2 : at])
    assert records[-1] == {
        "instruction": "Given a list of movies the user has watched before, "
        "please recommend a new movie that the user likes to the user.",
        "input": f'The user has watched the following movies before: "{first}", "{second}"\n ',
        "output": f'"{titles[dataset.events[at]]}"',
    }
    write_alpaca(dataset, "d3", tmp_path / "d3", category="movie", window=2)
    (*_, record) = json.loads((tmp_path / "d3" / "test.json").read_text(encoding="utf-8"))
    assert record["output"] == f'"{titles[dataset.events[at]]}"\n'


def test_refusals(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt plain: Alpaca JSON needs the sections"):
        write_alpaca(dataset, "plain", tmp_path / "json")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("")
    with pytest.raises(InputError, match="not empty"):
        write_alpaca(dataset, "alpaca", tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
