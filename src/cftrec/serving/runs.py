"""The RUNs being served, loaded anew when their folders change; requests go on with the version they began with."""

import gc
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cftrec.artefacts import MANIFEST
from cftrec.errors import InputError
from cftrec.recommender import Items, Recommender
from cftrec.serving.titles import TitleIndex
from cftrec.text.trie import Trie

NOBODY = np.empty(0, dtype=np.int64)
"""The history of anyone: no items."""
_POLL_S = 1.0
AT_ONCE = 1024
"""Titles scored in one go, seconds on a slow machine; whether somebody still waits is looked at in between."""
_ROW_ITEMS = 256  # titles that grow out of one copy of the prompt: attention within them is quadratic
_Files = dict[Path, tuple[int, int]]
_LOG = logging.getLogger("cftrec.serving")


class Late(Exception):
    """Nobody waits for the answer any more."""


def check_time(deadline: float) -> None:
    """Raise `Late` after a deadline, by `perf_counter` (seconds)."""
    if time.perf_counter() > deadline:
        raise Late


@dataclass(frozen=True, eq=False)
class Served:
    """One version of a RUN.

    Attributes:
        recommender: it.
        name: what requests call it.
        version: 16 hexadecimal digits that change when the RUN does.
        loaded: when it was loaded, UTC.
    """

    recommender: Recommender
    name: str
    version: str
    loaded: datetime

    @classmethod
    def load(cls, folder: Path, name: str | None = None) -> "Served":
        """Load a RUN and answer once, so that the first request need not wait for what is prepared then.

        Args:
            folder: the RUN.
            name: what requests call it; None: its own name.

        Raises:
            InputError: not a RUN, or a broken one.
        """
        recommender = _detached(Recommender.from_pretrained(folder))
        version = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]
        served = cls(recommender, name or recommender.run_name, version, datetime.now(UTC))
        recommender.search([np.array([0])], 1)
        _ = recommender.tokenizer  # later the folder may hold another one
        served.titles.find("a", 1)
        served.log_prior("counts", np.array([0]))
        recommender.catalogue.namesakes(np.array([0]))
        return served

    @cached_property
    def titles(self) -> TitleIndex:
        """The titles, to be searched."""
        return TitleIndex.of(self.recommender.catalogue)

    @cached_property
    def by_title(self) -> dict[str, int]:
        """Item index of each title; of items that share one the first."""
        return {title: item for item, title in reversed(list(enumerate(self.recommender.catalogue.titles)))}

    @cached_property
    def by_id(self) -> dict[str, int]:
        """Item index of each id."""
        return {name: item for item, name in enumerate(self.recommender.catalogue.item_ids)}

    @property
    def priors(self) -> list[str]:
        """Names of the priors there are; what training has erased is asked for as "counterfactual" only."""
        return ["counts", *(["trained"] if self.recommender.prior_weight else []), "counterfactual"]

    def log_prior(self, name: str, items: Items, deadline: float = math.inf) -> NDArray[np.float64]:
        """Return the log prior of some items, float64 [n], nats: the model is asked once about each.

        Raises:
            Late: not all was asked at the deadline, by `perf_counter` (seconds); what was asked is kept.
        """
        if name == "counts":
            return self._counts[items]
        unknown = np.unique(items[np.isnan(self._of_nobody[items])])
        for begin in range(0, len(unknown), AT_ONCE):
            check_time(deadline)
            asked = unknown[begin : begin + AT_ONCE]
            part = np.split(asked, range(_ROW_ITEMS, len(asked), _ROW_ITEMS))
            answered = self.recommender.log_probs([NOBODY] * len(part), part, "catalogue")
            for row, runs in zip(part, answered, strict=True):
                self._of_nobody[row] = [run.sum() for run in runs.split()]
        return self._of_nobody[items]

    def most_frequent(self, k: int, left_out: Items, allowed: Items | None) -> tuple[Items, NDArray[np.float64]]:
        """Return the k items that the prior of counts likes best, best first, and their log prior (nats)."""
        may = np.full(len(self._counts), allowed is None)
        may[NOBODY if allowed is None else allowed] = True
        may[left_out] = False
        best = self._counts_order[may[self._counts_order]][:k]
        return best, self._counts[best]

    @cached_property
    def _of_nobody(self) -> NDArray[np.float64]:
        """The model's own log prior of each item, under both names; NaN until it was asked."""
        return np.full(len(self.recommender.catalogue), np.nan)

    @cached_property
    def _counts(self) -> NDArray[np.float64]:
        return self.recommender.prior("counts").items

    @cached_property
    def _counts_order(self) -> NDArray[np.int64]:
        return np.argsort(-self._counts, kind="stable")


def _detached(recommender: Recommender) -> Recommender:
    """Copy what is mapped from the RUN's files, which may be written over while it is served."""
    for tensor in (*recommender.model.parameters(), *recommender.model.buffers()):  # each once, so tied ones stay tied
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    catalogue = recommender.catalogue
    trie = replace(catalogue.trie, **{one.name: getattr(catalogue.trie, one.name).copy() for one in fields(Trie)})
    counts, trained = catalogue.counts.copy(), catalogue.trained.copy()
    return replace(recommender, catalogue=replace(catalogue, trie=trie, counts=counts, trained=trained))


class Runs:
    """The newest whole version of each served folder.

    Args:
        folders: RUN folders; the first serves requests that name none.
        reloaded: called after each attempt to load a changed RUN, with whether it went well.

    Raises:
        InputError: a folder is no RUN, or two have one name.
    """

    def __init__(self, folders: Sequence[Path], reloaded: Callable[[bool], None] = lambda _: None) -> None:
        self._folders = list(folders)
        self._stamps = [_stamp(folder) for folder in folders]
        # Of a folder whose newest version was refused: its files when it was tried, and when they were last looked at.
        self._tried: list[_Files | None] = [None] * len(self._folders)
        self._seen: list[_Files | None] = [None] * len(self._folders)
        self._served = [Served.load(folder) for folder in folders]
        self._reloaded = reloaded
        self._wake, self._stop = threading.Event(), False
        names = [served.name for served in self._served]
        if len(set(names)) < len(names):
            raise InputError(f"two RUNs are named {max(names, key=names.count)}; requests could not tell them apart")
        self._watcher = threading.Thread(target=self._watch, name="cftrec-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch the folders."""
        self._watcher.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop = True
        self._wake.set()

    def reload(self) -> None:
        """Ask for all RUNs to be loaded anew; returns at once."""
        self._stamps = [None] * len(self._folders)
        self._wake.set()

    def all(self) -> list[Served]:
        """Return what is served now."""
        return list(self._served)

    def find(self, name: str | None) -> Served | None:
        """Return a RUN by its name, the first if none is given; None if there is none of that name."""
        served = self._served
        return served[0] if name is None else next((one for one in served if one.name == name), None)

    def _watch(self) -> None:
        while not self._stop:
            self._wake.wait(_POLL_S)
            self._wake.clear()
            for place, folder in enumerate(self._folders):
                if not self._stop and self._changed(place, folder):
                    self._replace(place, folder)

    def _changed(self, place: int, folder: Path) -> bool:
        """Return whether to load a folder: its manifest is another, or files of one that was refused have changed.

        The manifest comes last where a folder is made, but not where one is copied; then the copy must have come to
        rest, or each look at it would end with the same error.
        """
        stamp = _stamp(folder)
        if stamp is None:  # in the middle of being replaced
            return False
        if stamp != self._stamps[place]:
            self._stamps[place] = stamp
            return True
        if self._tried[place] is None:
            return False
        before, self._seen[place] = self._seen[place], _files(folder)
        return before == self._seen[place] != self._tried[place]

    def _replace(self, place: int, folder: Path) -> None:
        begin, files = time.perf_counter(), _files(folder)
        try:
            # Whatever it is named: clients and open pages go on to ask by the name that they know.
            served = Served.load(folder, self._served[place].name)
        except Exception as error:  # whatever is wrong with the new one, the old one still answers
            _LOG.error("%s: not loaded anew, the version before goes on: %s", folder, error)
            self._tried[place] = self._seen[place] = files
            self._reloaded(False)
            return
        self._tried[place] = None
        self._served[place] = served
        settle()
        took = time.perf_counter() - begin
        _LOG.info("%s: version %s loaded in %.1f s, served as %s", folder, served.version, took, served.name)
        self._reloaded(True)


def settle() -> None:
    """Take what is loaded out of garbage collection: looking through all of it takes a quarter of a second."""
    gc.collect()
    gc.freeze()


def _files(folder: Path) -> _Files:
    """Return what tells whether any file of a folder has changed: its size and when it was written (ns)."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            facts = path.stat()
            found[path] = facts.st_size, facts.st_mtime_ns
    return found


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    """Return what tells one manifest from another, or None where there is none."""
    try:
        facts = (folder / MANIFEST).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
