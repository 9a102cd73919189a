"""What is served while folders change."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from cftrec import Recommender
from cftrec.artefacts import MANIFEST
from cftrec.errors import InputError
from cftrec.serving.runs import Runs, Served


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def watched(runs, tmp_path, monkeypatch):
    """A copy of a RUN that is served and watched closely, and what came of each reload."""
    monkeypatch.setattr("cftrec.serving.runs._POLL_S", 0.02)
    folder, results = tmp_path / "cft", []
    shutil.copytree(runs[0], folder)
    served = Runs([folder], results.append)
    served.start()
    yield folder, served, results
    served.stop()


def put(source: Path, folder: Path) -> None:
    """Replace a folder as one would: build the new one beside it, move the old one away, move the new one in."""
    shutil.copytree(source, folder.with_name("new"))
    folder.rename(folder.with_name(f"old-{time.monotonic_ns()}"))
    folder.with_name("new").rename(folder)


def test_a_replaced_folder_is_served_and_the_old_version_goes_on_for_whom_has_it(watched, runs):
    folder, served, results = watched
    before = served.find(None)
    put(runs[1], folder)
    wait_for(lambda: results == [True])
    after = served.find(None)
    assert (before.name, after.name) == ("cft", "cft"), "clients go on to ask by the name that they know"
    assert (after.recommender.run_name, served.find("cft"), served.find("plain")) == ("plain", after, None)
    assert before.version != after.version
    assert before.recommender.search([np.array([1])], 2).items.shape == (1, 2)


def test_a_broken_folder_is_not_served(watched, runs):
    folder, served, results = watched
    before = served.find(None)
    weights = folder / "model" / "model.safetensors"
    broken = folder.with_name("broken")
    shutil.copytree(runs[1], broken)
    (broken / weights.relative_to(folder)).write_bytes(b"nothing")
    put(broken, folder)
    wait_for(lambda: results == [False])
    time.sleep(0.1)
    assert results == [False], "a broken version is tried again only when something has changed"
    weights.write_bytes(b"nothing either")
    wait_for(lambda: results == [False] * 2)
    time.sleep(0.1)
    assert results == [False] * 2
    assert served.find(None) is before
    put(runs[1], folder)
    wait_for(lambda: results == [False, False, True])


def test_a_folder_whose_manifest_comes_first_is_served_once_it_is_whole(watched, runs):
    folder, served, results = watched
    before = served.find(None)
    shutil.copy2(runs[1] / MANIFEST, folder)
    wait_for(lambda: results == [False])
    shutil.copytree(runs[1], folder, dirs_exist_ok=True)
    wait_for(lambda: results and results[-1])
    assert served.find(None).version == Served.load(runs[1]).version != before.version
    time.sleep(0.1)
    assert results.count(True) == 1


def test_an_explanation_reads_nothing_of_a_folder_that_was_refused(watched, runs):
    folder, served, results = watched
    before = served.find(None).recommender
    broken = folder.with_name("broken")
    shutil.copytree(runs[1], broken)
    for name in ("model.safetensors", "tokenizer.json"):
        (broken / "model" / name).write_bytes(b"nothing")
    put(broken, folder)
    wait_for(lambda: results == [False])
    expected = Recommender.from_pretrained(runs[0]).explain_item(np.array([1]), 2)
    assert [token.text for token in before.explain_item(np.array([1]), 2).tokens] == [
        token.text for token in expected.tokens
    ]


def test_files_written_over_in_place_change_no_answer(runs, tmp_path):
    """The mean way to replace a RUN, `cp -r`: the same files with another content."""
    for run in runs:
        folder = tmp_path / run.name
        shutil.copytree(run, folder)
        served, other = Served.load(folder), Recommender.from_pretrained(run)
        model = served.recommender.model
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "tied as before"
        for path in folder.rglob("*.*"):
            if path.is_file():
                with path.open("r+b") as file:
                    file.write(b"\x7f" * path.stat().st_size)
        expected, found = other.search([np.array([1])], 12), served.recommender.search([np.array([1])], 12)
        np.testing.assert_array_equal(found.items, expected.items)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
        assert served.recommender.catalogue.untrained.tolist() == other.catalogue.untrained.tolist()


def test_a_missing_folder_is_waited_for(watched, runs):
    folder, served, results = watched
    folder.rename(folder.with_name("away"))
    time.sleep(0.1)
    assert results == []
    folder.with_name("away").rename(folder)
    time.sleep(0.1)
    assert results == [], "the same manifest is the same version"
    served.reload()
    wait_for(lambda: results == [True])


def test_other_files_in_a_run_change_nothing(watched):
    folder, _, results = watched
    (folder / "metrics.json").write_text("{}")
    os.utime(folder)
    time.sleep(0.1)
    assert results == []


@pytest.mark.parametrize("name", [None, 7])
def test_a_run_without_a_name(runs, tmp_path, name):
    shutil.copytree(runs[0], tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest | {"name": name}))
    with pytest.raises(InputError, match="has no name"):
        Runs([tmp_path / "run"])


def test_two_runs_of_one_name(runs):
    with pytest.raises(InputError, match="two RUNs are named cft"):
        Runs([runs[0], runs[0]])
