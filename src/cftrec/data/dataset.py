"""The Dataset: a prepared log as integers, one table of items, and the manifest that says how it came about."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cftrec.artefacts import new_folder, read_manifest
from cftrec.errors import InputError

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
CONTEXT = 3  # of given splits: an event that histories show and that is the target of no sample

_ITEMS, _USERS, _EVENTS = "items.arrow", "users.arrow", "events.arrow"
_HASHED_BYTES = 2**26  # of a file at opening, some hundredths of a second; larger ones are then checked by size


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared log; events are user-major, oldest first.

    The history of an event is all events of its user before it, whatever their split. A sample is an event position.

    Attributes:
        items: row number = item index; `item_id` str, `title` str, then the source's other columns as str.
        users: user ids, str; row number = user index.
        offsets: int64 [U + 1]; the events of user u are `offsets[u]:offsets[u + 1]`, at least one.
        events: int32 [E], item index.
        split: uint8 [E], index into `SPLITS`, or `CONTEXT`.
        timestamps: int64 [E] in the source's unit (seconds where it is a public one), or None.
        manifest: source, options, counts of each step, split rule and boundaries.
    """

    items: pl.DataFrame
    users: pl.Series
    offsets: npt.NDArray[np.int64]
    events: npt.NDArray[np.int32]
    split: npt.NDArray[np.uint8]
    timestamps: npt.NDArray[np.int64] | None
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> Self:
        """Open a dataset folder; the arrays of events are read-only views of the mapped file, read where touched.

        Args:
            path: the folder.
            verify: compare the checksum of every file; else files above 64 MiB are checked by size, so that opening
                takes no longer for a long log.

        Raises:
            InputError: no dataset folder, or its files do not belong together.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "dataset", hashed_bytes=None if verify else _HASHED_BYTES)
        items, users = (_read(folder / name) for name in (_ITEMS, _USERS))
        events = _mapped(folder / _EVENTS)
        try:
            counts = users.get_column("events").to_numpy()
            dataset = cls(
                items=items,
                users=users.get_column("user_id"),
                offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
                events=events["item"],
                split=events["split"],
                timestamps=events.get("timestamp"),
                manifest=manifest,
            )
        except (KeyError, pl.exceptions.ColumnNotFoundError) as error:
            raise InputError(f"{folder}: a column is missing; make the dataset again with `cftrec prepare`") from error
        if not dataset._is_sound():
            raise InputError(f"{folder}: its files do not agree; make the dataset again with `cftrec prepare`")
        return dataset

    def save(self, path: str | Path, tables: Mapping[str, pl.DataFrame] | None = None) -> None:
        """Write the dataset as a folder, whole or not at all; equal datasets give equal Arrow files.

        Args:
            path: the folder to make; must be free.
            tables: further tables to keep in it, each as NAME.parquet.

        Raises:
            InputError: the folder is not empty or cannot be written.
        """
        events: dict[str, npt.NDArray[Any]] = {"item": self.events, "split": self.split}
        if self.timestamps is not None:
            events["timestamp"] = self.timestamps
        users = pl.DataFrame([self.users.alias("user_id"), pl.Series("events", np.diff(self.offsets))])
        with new_folder(Path(path), "dataset", self.manifest) as folder:
            _write(self.items, folder / _ITEMS)
            _write(users, folder / _USERS)
            _write_arrays(events, folder / _EVENTS)
            for name, table in (tables or {}).items():
                table.write_parquet(folder / f"{name}.parquet")

    def user_of(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the user index of each event position."""
        return np.searchsorted(self.offsets, np.asarray(positions), side="right") - 1

    def targets(self, split: str) -> npt.NDArray[np.int64]:
        """Return the event positions that are targets of a split, ascending.

        Those of "train" have at least one event before them; those of "validation" and "test" are all events of the
        split, and under the time split their history may be empty. `CONTEXT` events are targets of no split.

        Raises:
            InputError: no such split.
        """
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}'; known are {', '.join(SPLITS)}")
        chosen = self.split == SPLITS.index(split)
        if split == "train":
            chosen[self.offsets[:-1]] = False
        return np.flatnonzero(chosen)

    def history(self, position: int, limit: int | None = None) -> npt.NDArray[np.int32]:
        """Return the items of the user's events strictly before `position`, oldest first, the newest `limit` of them.

        The array is a view of `events`.
        """
        start = int(self.offsets[self.user_of(position)])
        return self.events[start if limit is None else max(start, position - limit) : position]

    def item_counts(self) -> npt.NDArray[np.int64]:
        """Return the number of training events of each item, int64 [I]."""
        return np.bincount(self.events[self.split == TRAIN], minlength=self.items.height).astype(np.int64)

    def _is_sound(self) -> bool:
        """Say whether tables and arrays fit each other in type, length and range."""
        typed = self.events.dtype == np.int32 and self.split.dtype == np.uint8
        timed = self.timestamps is None or self.timestamps.dtype == np.int64
        if not (typed and timed and self.items.columns[:2] == ["item_id", "title"] and len(self.events)):
            return False
        in_range = self.events.min() >= 0 and self.events.max() < self.items.height and self.split.max() <= CONTEXT
        return bool(in_range and np.diff(self.offsets).min() > 0 and self.offsets[-1] == len(self.events))


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ipc(path).rechunk()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not a readable Arrow file; make the dataset again with `cftrec prepare`") from error


def _mapped(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of an Arrow file of plain numbers, as views of the mapped file."""
    try:
        # The map outlives this function: arrays hold on to it.
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        return {name: _joined(table.column(name).chunks) for name in table.column_names}
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Arrow file; make the dataset again with `cftrec prepare`") from error


def _joined(chunks: list[Any]) -> npt.NDArray[Any]:
    """Return a column's chunks as one array, a view where there is one.

    Arrow's own conversion to numpy imports pandas where that is installed, which takes longer than opening.
    """
    if any(chunk.null_count for chunk in chunks):
        raise ValueError("a number is missing")
    parts = [np.frombuffer(chunk.buffers()[1], str(chunk.type))[chunk.offset :][: len(chunk)] for chunk in chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _write(frame: pl.DataFrame, path: Path) -> None:
    """Write an Arrow IPC file that any Arrow reader knows: one record batch, plain strings, not compressed."""
    # Plain strings, unlike string views, hold the values alone, so that equal tables give equal bytes.
    frame.rechunk().write_ipc(path, compression="uncompressed", compat_level=pl.CompatLevel.oldest())


def _write_arrays(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    """Write columns of plain numbers as an Arrow IPC file that can be mapped: one record batch, not compressed."""
    columns = [
        pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(array)])
        for array in map(np.ascontiguousarray, arrays.values())
    ]
    batch = pa.record_batch(columns, names=list(arrays))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
