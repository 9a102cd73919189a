import numpy as np
import polars as pl

from cftrec.data import Dataset
from cftrec.data.summary import QUANTILES, summarise


def test_numbers_equal_the_loops() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 30)
    events = rng.integers(0, 12, counts.sum()).astype(np.int32)
    data = Dataset(
        items=pl.DataFrame({"item_id": [str(n) for n in range(12)], "title": ["T"] * 12}),
        users=pl.Series("user_id", [str(n) for n in range(30)]),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        events=events,
        split=rng.integers(0, 4, len(events)).astype(np.uint8),
        timestamps=np.sort(rng.integers(10**9, 2 * 10**9, len(events))),
        manifest={"name": "x", "split": {"rule": "time", "test_from_timestamp": 1_600_000_000}, "leakage": {"a": 1}},
    )
    found = summarise(data)
    assert found["counts"] == {"users": 30, "items": 12, "events": len(events)}
    pairs = {(user, item) for user, row in enumerate(np.split(events, data.offsets[1:-1])) for item in row.tolist()}
    assert len(pairs) < len(events) and found["density"] == len(pairs) / 360
    popularity = sorted((events.tolist().count(item) for item in range(12)), reverse=True)
    assert found["share_of_top_items"] == popularity[0] / len(events)
    assert found["targets"] == {part: len(data.targets(part)) for part in ("train", "validation", "test")}
    assert found["cuts"] == {"test": "2020-09-13"}
    assert len(found["period"]) == 2
    measured = {
        "events of a user": counts.tolist(),
        "events in the history of a test target": [len(data.history(at)) for at in data.targets("test").tolist()],
        "events of an item": popularity,
    }
    for name, values in measured.items():
        for quantile, share in QUANTILES.items():
            least = found["quantiles"][name][quantile]
            assert least in values
            assert sum(value <= least for value in values) >= share * len(values)
            assert share == 0 or sum(value < least for value in values) < share * len(values)
