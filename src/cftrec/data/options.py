"""The options of preparation, and the protocols: named sets of them that this field compares under."""

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from cftrec.data.sources import SourceOptions
from cftrec.data.sources.sheet import listed, quoted
from cftrec.errors import InputError

PROTOCOLS: dict[str, dict[str, Any]] = {
    "leave-one-out": {"split": "leave-one-out"},
    "time": {"split": "time"},
    "cold-start": {"split": "cold-start"},
    # D3 (arXiv 2406.14900) and, with its files, CFT: section on data, and what the published processing does.
    "d3": {
        "split": "rows",
        "ties": "source",
        "same_title": "keep",
        "join_year": False,
        "max_untitled": 1.0,
        "max_title_words": 20,
        "window_items": 10_000,
        "min_user_events": 5,
        "min_item_events": 5,
    },
}
_SHARES, _DATES = ("validation_share", "test_share"), ("validation_from", "test_from")
_SPLIT_OPTIONS = {
    "leave-one-out": (),
    "rows": _SHARES,
    "time": _SHARES + _DATES,
    "cold-start": (*_SHARES, *_DATES, "cold"),
}


@dataclass(frozen=True)
class PrepareOptions(SourceOptions):
    """How a log becomes a dataset.

    Args:
        protocol: a named set of options: leave-one-out, time and cold-start are the splits of that name; d3 is split rows, ties source, same_title keep, no join_year, max_untitled 1, max_title_words 20, window_items 10000, min_user_events 5 and min_item_events 5 (arXiv 2406.14900). An option away from its default goes before the protocol's.
        join_year: append the year to titles without one where the items have a column of years, as "Star Wars (1977)".
        max_untitled: share of the items in the log that may be without title, 0 to 1; they are dropped and counted, and more are refused.
        max_title_words: items with longer titles are dropped and counted; 0 drops none.
        same_title: what becomes of items with equal titles: merge them into the first one, distinguish them by their item id in brackets, or keep them as they are, items of one name.
        repeats: what becomes of a user's repeated items: keep all, keep the first of each item, or drop those that directly follow the same item.
        ties: order of a user's events with equal timestamps, whose true order nobody knows: a seeded shuffle, or that of the source.
        window_items: keep the newest events only: from the first day (UTC) of the last event's month, a year earlier, and then year by year further back until the core leaves so many items; 0 keeps all.
        min_user_events: events that a user must have, counted again until nothing changes, targets included; 1 drops none.
        min_item_events: events that an item must have, counted likewise; 1 drops the items that nobody took, 0 keeps them.
        sample_users: keep so many users, drawn by the seed among those left, and all items; 0 keeps all users.
        split: leave-one-out (each user's last event is the test, the one before it the validation target; users with fewer than 3 events only train), time (80, 10 and 10 percent of all events by timestamp, equal timestamps on one side), cold-start (as time, but only items or users that training never saw are targets), or rows (every event with one before it is a row; rows by timestamp 80, 10 and 10 percent, equal timestamps on both sides); a source with given splits keeps them.
        validation_share: share of the events or rows that validation gets (time, cold-start, rows).
        test_share: share that test gets, the newest (time, cold-start, rows).
        validation_from: date (2018-10-01, UTC) or timestamp from which on events are validation, instead of the shares (time, cold-start; with test_from).
        test_from: date or timestamp from which on events are test (time, cold-start; with validation_from).
        cold: whose first event must be after the cut: items or users (cold-start).
        seed: seed of the shuffle of a user's events with equal timestamps, and of sample_users.
        memory: GiB that preparation may take beyond the text of a block being read; a log that needs more is refused, and longer ones are ordered in parts.
    """  # noqa: E501 - the command line shows each entry as its help, a line each

    protocol: Literal["d3", "time", "leave-one-out", "cold-start"] | None = None
    join_year: bool = True
    max_untitled: float = 0.1
    max_title_words: int = 0
    same_title: Literal["merge", "distinguish", "keep"] = "merge"
    repeats: Literal["keep", "first", "drop-consecutive"] = "keep"
    ties: Literal["shuffle", "source"] = "shuffle"
    window_items: int = 0
    min_user_events: int = 1
    min_item_events: int = 1
    sample_users: int = 0
    split: Literal["leave-one-out", "time", "cold-start", "rows"] = "leave-one-out"
    validation_share: float = 0.1
    test_share: float = 0.1
    validation_from: str | None = None
    test_from: str | None = None
    cold: Literal["items", "users"] = "items"
    seed: int = 0
    memory: float = 4.0

    def __post_init__(self) -> None:
        """Take the protocol's options; raise `InputError` for a value that is out of its range or has no effect."""
        self._check_known("protocol", list(PROTOCOLS))
        defaults = {field.name: field.default for field in fields(self)}
        for name, value in PROTOCOLS.get(self.protocol or "", {}).items():
            if getattr(self, name) == defaults[name]:
                object.__setattr__(self, name, value)
        types = get_type_hints(PrepareOptions)
        for name in ("same_title", "repeats", "ties", "split", "cold"):
            self._check_known(name, get_args(types[name]))
        for name in ("max_title_words", "window_items", "min_user_events", "min_item_events", "sample_users", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"option {name}: {getattr(self, name)} is below 0; give 0 or more")
        if not 0 <= self.max_untitled <= 1:
            raise InputError(f"option max_untitled: {self.max_untitled} is no share; give 0 to 1")
        if not 0 < self.memory <= 2**20:
            raise InputError(f"option memory: {self.memory} GiB is no size; give more than 0, and 2^20 at most")
        self._check_cuts({name for name in (*_SHARES, *_DATES, "cold") if getattr(self, name) != defaults[name]})

    def cut_dates(self) -> tuple[float, float] | None:
        """Return the timestamps where validation and test begin, None where shares decide."""
        if self.validation_from is None or self.test_from is None:
            return None
        return _timestamp("validation_from", self.validation_from), _timestamp("test_from", self.test_from)

    def _check_known(self, name: str, known: Any) -> None:
        value = getattr(self, name)
        if value is not None and value not in known:
            raise InputError(f"option {name}: unknown value {quoted(value)}; known are {listed(known)}")

    def _check_cuts(self, given: set[str]) -> None:
        """Refuse cuts that the split makes no use of, or that leave a part empty."""
        for name in given - set(_SPLIT_OPTIONS[self.split]):
            able = [split for split, names in _SPLIT_OPTIONS.items() if name in names]
            raise InputError(f"option {name}: split {self.split} makes no use of it, only {listed(able)}; leave it out")
        if given & set(_DATES):
            if len(given & {*_SHARES, *_DATES}) != 2 or not set(_DATES) <= given:
                raise InputError("options validation_from and test_from go together, and without shares; give both")
            first, second = self.cut_dates() or (0, 0)
            if not first < second:
                raise InputError(
                    f"option test_from: {self.test_from} is not after validation_from {self.validation_from}"
                )
        for name in _SHARES:
            if not 0 < getattr(self, name) < 1 or self.validation_share + self.test_share >= 1:
                raise InputError(
                    f"option {name}: {getattr(self, name)} leaves a part without events; give validation_share and "
                    "test_share above 0 and together below 1"
                )


def named_options(options: PrepareOptions) -> dict[str, Any]:
    """Return every option; a file by its name, for where it lies on this machine means nothing elsewhere."""
    return asdict(options) | {"items": None if options.items is None else Path(options.items).name}


def _timestamp(name: str, text: str) -> float:
    """Return a number as it is, and a date as seconds since 1970 (UTC unless it names a zone)."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"option {name}: {quoted(text)} is neither a date like 2018-10-01 nor a timestamp") from error
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
