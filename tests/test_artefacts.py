"""Folders appear whole under their name, and are held by one command at a time."""

import multiprocessing
import time

import pytest

from cftrec.artefacts import held, new_folder, read_manifest
from cftrec.errors import InputError


def test_of_two_commands_that_make_one_folder_the_first_is_whole_and_the_other_refused(tmp_path):
    def fill(folder, text):
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text)

    path = tmp_path / "run"
    with pytest.raises(InputError, match="not empty"), new_folder(path, "run", {"name": "slow"}) as slow:
        fill(slow, "slow")
        with new_folder(path, "run", {"name": "fast"}) as fast:
            fill(fast, "fast")
    assert read_manifest(path, "run")["name"] == (path / "model" / "weights").read_text() == "fast"
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def wait(ready):
    ready.set()
    time.sleep(600)


def test_a_forked_process_that_lives_on_holds_nothing(tmp_path):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    with held(tmp_path):
        child = fork.Process(target=wait, args=(ready,))
        child.start()
        assert ready.wait(60)
        with pytest.raises(InputError, match="another command"), held(tmp_path):
            pass
    try:
        with held(tmp_path):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()
