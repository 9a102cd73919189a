"""A table of lists that any system made, (user, item, rank) or (user, item, score): read and checked."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.data.dataset import SPLITS, Dataset
from cftrec.data.sources.sheet import Sheet, numbers, quoted
from cftrec.errors import InputError
from cftrec.evaluation.metrics import CUTOFFS

LENGTH = "history_length"


@dataclass(frozen=True)
class Lists:
    """The lists of a split's n targets.

    Attributes:
        items: int32 [n, k] item index, best first, padded with -1.
        scores: float32 [n, k], or None where the table has none.
        facts: what was counted of the table, and `notes`: the same as sentences, for what is not as it should be.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32] | None
    facts: dict[str, Any]


def read_lists(sheet: Sheet, dataset: Dataset, split: str, k: int) -> Lists:
    """Read a table with the columns user, item, rank and, if it has them, score and history_length.

    The ranks.parquet of an evaluation, a row a list, is read as such a table: so lists that were made on one Dataset
    are evaluated on another, such as a sample of its users.

    Ids are those of the Dataset. Each user's ranks run from 1 without gap. `history_length`, the number of the user's
    events before the target, says which target a list is for; without it a list is for the user's only target.

    What makes a list wrong is refused. What makes it weak is counted, in `facts` and in its `notes`: targets without a
    list (misses), lists for nobody in the split (not read), items of the user's own history (they keep their places,
    where cftrec leaves such items out), lists shorter than 20 items although the catalogue has more to offer.

    Raises:
        InputError: an unknown split or one without targets; a missing column; an empty id; a rank that is no whole
            number from 1; a score that is no number; an item that the Dataset does not have; two items at one rank,
            one item at two ranks, or a gap between ranks; no history_length although users have several targets; no
            list for any target.
    """
    positions = _targets(dataset, split)
    sheet = row_a_rank(sheet)
    table = _with_cases(sheet, _table(sheet), dataset, positions)
    asked = table.filter(pl.col("case").is_not_null())
    if asked.is_empty():
        raise InputError(f"{sheet.path}: no list for any target of the {split} split; are its users the Dataset's?")
    items = np.full((len(positions), k), -1, dtype=np.int32)
    scores = np.full((len(positions), k), -np.inf, dtype=np.float32)
    near = asked.filter(pl.col("rank") <= k)
    place = near["case"].to_numpy(), near["rank"].to_numpy() - 1
    items[place] = near["index"].to_numpy()
    scored = "score" in near.columns
    if scored:
        scores[place] = near["score"].to_numpy()
    return Lists(items, scores if scored else None, _facts(table, items, dataset, positions))


def row_a_rank(sheet: Sheet) -> Sheet:
    """Return a table of lists (`evaluate.RANKS_SCHEMA`, whose `rank` is the target's) with a row for each item."""
    frame = sheet.frame
    if "item" in frame.columns or not isinstance(frame.schema.get("items"), pl.List):
        return sheet
    scored = isinstance(frame.schema.get("scores"), pl.List) and not frame["scores"].has_nulls()
    columns = [pl.col("items").alias("item"), *([pl.col("scores").alias("score")] if scored else [])]
    keys = [name for name in ("user", LENGTH) if name in frame.columns]
    ranks = pl.int_ranges(1, pl.col("items").list.len() + 1).alias("rank")
    lists = frame.select(*keys, *columns, ranks, sheet.rows.alias("row")).filter(pl.col("item").list.len() > 0)
    try:
        flat = lists.explode([name for name in lists.columns if name not in (*keys, "row")])
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{sheet.path}: items and scores of a row differ in their number; give each item one"
        ) from error
    return replace(sheet, frame=flat.drop("row"), rows=flat["row"])


def _targets(dataset: Dataset, split: str) -> NDArray[np.int64]:
    if split not in SPLITS:
        raise InputError(f"--split {split}: unknown split; choose one of {', '.join(SPLITS)}")
    positions = dataset.targets(split)
    if not len(positions):
        raise InputError(f"the dataset has no target in its {split} split; evaluate another split or prepare it again")
    return positions


def _table(sheet: Sheet) -> pl.DataFrame:
    """Return the table's rows: user, item (str), rank (int64), history_length (int64) and score (float64) if given."""
    columns = [sheet.ids("user").alias("user"), sheet.ids("item").alias("item"), whole(sheet, "rank", least=1)]
    if LENGTH in sheet.frame.columns:
        columns.append(whole(sheet, LENGTH, least=0))
    if "score" in sheet.frame.columns:
        columns.append(scores(sheet))
    return pl.DataFrame(columns).with_row_index("row")


def whole(sheet: Sheet, name: str, least: int) -> pl.Series:
    """Return a column of whole numbers from `least` as int64; anything else is refused with its row."""
    given = numbers(sheet.column(name))  # a table of floats writes 1.0
    found = given.to_frame().select(pl.when(pl.col(name) == pl.col(name).floor()).then(pl.col(name)).cast(pl.Int64))
    _refuse(sheet, (found[name] < least).fill_null(True), name, f"which is no whole number from {least}")
    return found[name]


def scores(sheet: Sheet) -> pl.Series:
    """Return the column `score` as float64; what is no finite number is refused with its row."""
    given = sheet.column("score")
    found = pl.Series("score", [None] * len(given), dtype=pl.Float64)
    if not given.dtype.is_nested():
        found = given.cast(pl.Float64, strict=False)
    _refuse(sheet, ~found.is_finite().fill_null(False), "score", "which is no finite number, larger for better")
    return found


def _refuse(sheet: Sheet, bad: pl.Series, name: str, why: str) -> None:
    rows = bad.arg_true()
    if len(rows):
        raise InputError(f"{sheet.place(rows[0])}: {name} is {quoted(sheet.frame[name][rows[0]])}, {why}")


def _with_cases(sheet: Sheet, table: pl.DataFrame, dataset: Dataset, positions: NDArray[np.int64]) -> pl.DataFrame:
    """Add `index` (of the item) and `case` (number of the target, null where a list is for none), and check the lists.

    Raises:
        InputError: see `read_lists`.
    """
    known = dataset.items.select(pl.col("item_id").alias("item")).with_row_index("index")
    table = table.join(known, on="item", how="left", maintain_order="left")
    _refuse(
        sheet,
        table["index"].is_null(),
        "item",
        f"which the Dataset does not have ({table['index'].null_count():,} such rows); "
        "leave such items out and rank the others from 1",
    )
    users = dataset.user_of(positions)
    cases = pl.DataFrame({"user": dataset.users.gather(users).cast(pl.String)}).with_columns(
        pl.Series(LENGTH, positions - dataset.offsets[users]), pl.int_range(len(positions)).alias("case")
    )
    key = ["user", LENGTH] if LENGTH in table.columns else ["user"]
    if len(key) == 1 and (several := cases["user"].is_duplicated()).any():
        user = cases["user"].filter(several)[0]
        raise InputError(
            f"{sheet.path}: user {quoted(user)} and others have several targets in this split; add a column {LENGTH}, "
            "the number of the user's events before the target, as in the ranks.parquet of an evaluated RUN"
        )
    _check_ranks(sheet, table, key)
    return table.join(cases.select(*key, "case"), on=key, how="left", maintain_order="left")


def _check_ranks(sheet: Sheet, table: pl.DataFrame, key: list[str]) -> None:
    """Refuse lists in which a rank or an item comes twice or a rank is left out."""
    for column, what in (("rank", "two items at rank"), ("item", "two ranks for item")):
        twice = table.filter(~pl.struct(*key, column).is_first_distinct())
        if len(twice):
            row = twice.row(0, named=True)
            raise InputError(
                f"{sheet.place(row['row'])}: user {quoted(row['user'])} has {what} {row[column]}; "
                "give each rank an item of its own"
            )
    gaps = table.group_by(key, maintain_order=True).agg(pl.len(), pl.col("rank").max())
    gaps = gaps.filter(pl.col("rank") != pl.col("len"))
    if len(gaps):
        user, length, last = gaps.select("user", "len", "rank").row(0)
        raise InputError(
            f"{sheet.path}: the ranks of user {quoted(user)} go up to {last} but there are {length}; "
            "rank without gaps, from 1"
        )


def _facts(
    table: pl.DataFrame, items: NDArray[np.int32], dataset: Dataset, positions: NDArray[np.int64]
) -> dict[str, Any]:
    """Count what a reader must know, and say it where it is not 0."""
    seen = [np.unique(dataset.history(int(position))) for position in positions]
    targets = dataset.events[positions]
    lengths = (items >= 0).sum(axis=1)
    own = [np.isin(row, past) & (row != target) for row, past, target in zip(items, seen, targets, strict=True)]
    left = [dataset.items.height - past.size + (target in past) for past, target in zip(seen, targets, strict=True)]
    counts = {
        "targets_without_list": int((lengths == 0).sum()),
        "rows_for_no_target": table["case"].null_count(),
        "history_items": int(np.sum(own)),
        "short_lists": int(((lengths > 0) & (lengths < np.minimum(max(CUTOFFS), left))).sum()),
    }
    told = {
        "targets_without_list": "{:,} of {targets:,} targets have no list and count as misses.",
        "rows_for_no_target": "{:,} of {rows:,} rows are for users or targets outside the split and were not read.",
        "history_items": "{:,} of {items:,} recommended items are of the user's own history, which cftrec leaves out; "
        "they keep their places.",
        "short_lists": f"{{:,}} of {{targets:,}} lists have fewer than {max(CUTOFFS)} items; beyond its end a list "
        "misses.",
    }
    sizes = {"targets": len(positions), "rows": len(table), "items": int(lengths.sum())}
    return (
        {"rows": len(table)}
        | counts
        | {"notes": [told[name].format(count, **sizes) for name, count in counts.items() if count]}
    )
