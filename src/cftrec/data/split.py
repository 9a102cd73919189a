"""Which events are targets of training, validation and test: a code for each event, by the rule of the options.

A sample is an event with all its user's events before it, so a code for each event is a split of the samples. `CONTEXT`
events are shown in histories and are the target of no sample.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cftrec.data.dataset import CONTEXT, SPLITS, TEST, TRAIN, VALIDATION
from cftrec.data.options import PrepareOptions
from cftrec.data.tables import Ints, Tables, Times
from cftrec.errors import InputError

Split = npt.NDArray[np.uint8]  # [E], an index into SPLITS, or CONTEXT
_Rule = dict[str, Any]  # the manifest's words on it


def make_split(tables: Tables, offsets: Ints, options: PrepareOptions) -> tuple[Split, _Rule]:
    """Return the split of events in order, and its rule for the manifest.

    Raises:
        InputError: the log has not what the rule needs, or no test target is left.
    """
    if tables.split is not None:
        split, rule = _given(tables.split, options)
    elif options.split == "leave-one-out":
        split, rule = _leave_one_out(offsets)
    else:
        if tables.timestamps is None:
            raise InputError(
                f"option split: {options.split} needs timestamps, and none were read; use leave-one-out, or name "
                "timestamp_column"
            )
        make = {"time": _by_time, "cold-start": _cold_start, "rows": _rows}[options.split]
        split, rule = make(tables, tables.timestamps, offsets, options)
    return split, rule | {"parts": _parts(tables, split)}


def _given(split: Split, options: PrepareOptions) -> tuple[Split, _Rule]:
    for name, default in (("protocol", None), ("split", "leave-one-out")):
        if getattr(options, name) != default:
            raise InputError(f"option {name}: the source gives its split, which stays as it is; leave the option out")
    if not (split == TEST).any():
        raise InputError(
            "the source gives a split without any test target that is left; check its test file and titles"
        )
    context = int((split == CONTEXT).sum())
    return split, {"rule": "given by the source", "events_in_histories_only": context}


def _leave_one_out(offsets: Ints) -> tuple[Split, _Rule]:
    """Split by each user's last two events."""
    last = offsets[1:] - 1
    enough = np.diff(offsets) >= 3
    if not enough.any():
        raise InputError("option split: leave-one-out needs a user with 3 events or more, and there is none")
    split = np.full(offsets[-1], TRAIN, np.uint8)
    split[last[enough]] = TEST
    split[last[enough] - 1] = VALIDATION
    return split, {"rule": "leave-one-out", "users_below_3_events_in_train_only": int((~enough).sum())}


def _by_time(tables: Tables, times: Times, offsets: Ints, options: PrepareOptions) -> tuple[Split, _Rule]:
    """Split by two timestamps, given or next to the shares of the events."""
    first, second = options.cut_dates() or _cuts(times, options)
    split = ((times >= first).astype(np.uint8) + (times >= second)).astype(np.uint8)
    for part in (TRAIN, VALIDATION, TEST):
        if not (split == part).any():
            raise InputError(
                f"options validation_from {options.validation_from} and test_from {options.test_from}: no event is "
                f"left for {SPLITS[part]}; the log goes from {times.min()} to {times.max()}"
            )
    return split, {"rule": "time", "validation_from_timestamp": first, "test_from_timestamp": second}


def _cuts(times: Times, options: PrepareOptions) -> tuple[float, float]:
    """Return the two timestamps next to the shares, so that equal timestamps are on one side."""
    ordered = np.sort(times)
    cuts = np.flatnonzero(np.diff(ordered)) + 1  # events before a possible cut
    if len(cuts) < 2:
        raise InputError(f"option split: {options.split} needs 3 different timestamps, and there are {len(cuts) + 1}")
    shares = (1 - options.validation_share - options.test_share, 1 - options.test_share)
    first, second = (int(np.abs(cuts - share * len(times)).argmin()) for share in shares)
    if first == second:  # one timestamp holds a part's share of the events or more
        first, second = (first - 1, second) if first else (first, second + 1)
    validation_from, test_from = (ordered[cuts[cut]].item() for cut in (first, second))
    return validation_from, test_from


def _cold_start(tables: Tables, times: Times, offsets: Ints, options: PrepareOptions) -> tuple[Split, _Rule]:
    """Split by time, but targets are only items (or users) without an event before validation begins."""
    split, rule = _by_time(tables, times, offsets, options)
    codes, names = (tables.item, tables.items) if options.cold == "items" else (tables.user, tables.users)
    warm = np.bincount(codes[split == TRAIN], minlength=len(names)) > 0
    context = (split != TRAIN) & warm[codes]
    split[context] = CONTEXT
    if not (split == TEST).any():
        raise InputError(
            f"option split: cold-start finds no {options.cold} first seen after the cut with a test event; cut earlier"
        )
    return split, rule | {"rule": f"cold-start of {options.cold}", "events_in_histories_only": int(context.sum())}


def _rows(tables: Tables, times: Times, offsets: Ints, options: PrepareOptions) -> tuple[Split, _Rule]:
    """Split the rows, each a history and its next item, by time and share alone (D3, arXiv 2406.14900).

    Rows of one timestamp are in the order of their users' first events in the source, as the published processing has
    them, and may fall on both sides of a cut. A user's first event makes no row: where its second is a row of
    training it is one of training's events, and else it stands in histories only.
    """
    assert tables.row is not None
    rows = np.ones(len(times), bool)
    rows[offsets[:-1]] = False
    rows = np.flatnonzero(rows)
    if len(rows) < 3:
        raise InputError(f"option split: rows needs 3 events with one of their user before, and there are {len(rows)}")
    first_seen = np.minimum.reduceat(tables.row, offsets[:-1])
    order = rows[np.lexsort((first_seen[tables.user[rows]], times[rows]))]
    shares = 1 - options.validation_share - options.test_share, 1 - options.test_share
    cuts = [int(round(len(rows) * share, 6)) for share in shares]  # 1 - .05 - .05 is a little less than .9
    split = np.full(len(times), CONTEXT, np.uint8)
    for part, chosen in enumerate(np.split(order, cuts)):
        if part != VALIDATION and not len(chosen):
            raise InputError(
                f"options validation_share {options.validation_share} and test_share {options.test_share}: no event of "
                f"{len(rows)} is left for {SPLITS[part]}; give other shares"
            )
        split[chosen] = part
    starts = offsets[:-1][np.diff(offsets) > 1]
    split[starts[split[starts + 1] == TRAIN]] = TRAIN
    facts = {
        "rule": "rows",
        "published_history": "the last 10 items: train with window=10 history_stride=1",
        "rows": dict(zip(SPLITS, np.diff([0, *cuts, len(rows)]).tolist(), strict=True)),
        "validation_from_timestamp": times[order[cuts[0]]].item(),
        "test_from_timestamp": times[order[cuts[1]]].item(),
    }
    return split, facts


def _parts(tables: Tables, split: Split) -> dict[str, dict[str, int]]:
    """Return events and users of each part of the split."""
    chosen = {name: tables.user[split == part] for part, name in enumerate(SPLITS)}
    return {name: {"events": len(user), "users": int((np.bincount(user) > 0).sum())} for name, user in chosen.items()}
