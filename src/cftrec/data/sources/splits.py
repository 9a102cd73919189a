"""The split CSVs of D3, CFT, IGD and MiniOneRec, taken as given: a sample a row, and an `info` file of the items.

`train/`, `valid/` and `test/` hold a CSV each, of one name, and `info/` a text file; or `train.csv`, `valid.csv`,
`test.csv` and `info.txt` lie in the folder. Columns: `user_id`, `history_item_id`, `item_id`, `history_item_title`,
`item_title`; of D3 also `item_asin`, `history_timestamp`, `timestamp`; of MiniOneRec `item_sid`, semantic ids. `info`
has `title TAB id` (D3) or `semantic id TAB title TAB id` (MiniOneRec). Lists are Python literals, never evaluated.
arXiv 2406.14900, 2410.22809, 2506.13229, 2510.24431
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from cftrec.data.sources.lines import Block, Lines, decoded_block, first_lines, read_lines
from cftrec.data.sources.log import Log, SourceOptions, has_text, item_frame
from cftrec.data.sources.samples import PARTS, SAMPLE, lists, samples_log
from cftrec.data.sources.sheet import Sheet, files_in, listed, read_text
from cftrec.errors import InputError

_DUE = ("user_id", "history_item_id", "item_id")
_OTHERS = {"item_sid": "sid", "item_asin": "asin"}


def recognise(source: Path) -> str | None:
    """Say which files hold the parts and the items."""
    found = _find(source)
    if found is None:
        return None
    parts, info = found
    header = b"".join(first_lines(parts["train"])[:1]).decode(errors="replace")
    if not all(column in header for column in _DUE):
        return None
    family = "MiniOneRec" if "item_sid" in header else "D3"
    with_info = f"{info.parent.name}/{info.name}" if info else "no info file"
    return (
        f"split CSVs in the form of {family}: {listed([_short(part, source) for part in parts.values()])}; {with_info}"
    )


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read the folder, or that of one of several data sets in it by naming its CSV in `train/`.

    Raises:
        InputError: a part or column is missing, several data sets, or rows that are no CSV.
    """
    options.refuse_others("splits")
    found = _find(Path(source))
    if found is None:
        raise InputError(f"{source}: no split CSVs (train/NAME.csv, test/NAME.csv, or train.csv, test.csv)")
    parts, info = found
    sheets = {part: _read_part(path, limit) for part, path in parts.items()}
    samples = pl.concat([_samples(part, sheet) for part, sheet in sheets.items()], how="diagonal")
    known = None if info is None else _read_info(info, any("item_sid" in s.frame.columns for s in sheets.values()))
    items = _items(list(sheets.values()), known)
    time = "timestamp" if "times" in samples.columns else None
    columns = {"user": "user_id", "item": "item_id", "timestamp": time, "title": "item_title"}
    name = parts["train"].stem if parts["train"].stem != "train" else parts["train"].resolve().parent.name
    files: list[Sheet | Lines] = [*sheets.values(), *([known] if known else [])]
    return samples_log(name, "splits", files, samples, items, dropped={}, columns=columns)


def _short(path: Path, source: Path) -> str:
    return str(path.relative_to(source)) if path.is_relative_to(source) else f"{path.parent.name}/{path.name}"


def _find(source: Path) -> tuple[dict[str, Path], Path | None] | None:
    """Return the CSV of each part and the info file; None where there is no train and test part."""
    if source.is_file() and source.parent.name == "train":
        root, names = source.parent.parent, [source.name]
    elif source.is_file():
        return None
    else:
        root = source
        names = (
            [name for name in files_in(root / "train") if name.endswith(".csv")] if (root / "train").is_dir() else []
        )
    if len(names) > 1:
        raise InputError(f"{root}: several data sets in train ({listed(names)}); name the CSV of one")
    paths = {part: root / part / names[0] if names else root / f"{part}.csv" for part in PARTS}
    parts = {part: path for part, path in paths.items() if path.is_file()}
    if not {"train", "test"} <= set(parts):
        return None
    texts = [root / "info" / f"{Path(name).stem}.txt" for name in names] + [root / "info.txt"]
    return parts, next((path for path in texts if path.is_file()), None)


def _read_part(path: Path, limit: int | None) -> Sheet:
    sheet = read_text(path, ",", quotes=True, limit=limit)
    inside = f"{path.parent.name}/{path.name}" if path.parent.name in PARTS else path.name
    return replace(sheet, facts=sheet.facts | {"name": inside})


def _samples(part: str, sheet: Sheet) -> pl.DataFrame:
    user, history, item = (sheet.column(name) for name in _DUE)
    frame = pl.DataFrame(
        {"part": part, "row": sheet.rows + 1, "user": user, "history": lists(history), "item": item},
        schema=SAMPLE,
    )
    if {"history_timestamp", "timestamp"} <= set(sheet.frame.columns):
        frame = frame.with_columns(
            lists(sheet.column("history_timestamp")).alias("times"), sheet.column("timestamp").alias("time")
        )
    return frame


def _read_info(path: Path, sids: bool) -> Lines:
    """Read the items: the id is the last field of a line, the semantic id, if there are any, the first."""

    def parse(block: bytes) -> Block:
        text, latin = decoded_block(block)
        rows, broken = [], []
        for place, line in enumerate(text.split("\n")):
            *before, item = line.rstrip("\r").split("\t")
            sid = before.pop(0) if sids and before else None
            if before and item.strip():
                rows.append((item.strip(), "\t".join(before), sid))
            elif line.strip():
                broken.append(place)
        return Block(
            pl.DataFrame(rows, dict.fromkeys(("item_id", "title", "sid"), pl.String), orient="row"), broken, latin
        )

    known = read_lines(path, parse, "items (a title, a tab, an id)")
    inside = f"info/{path.name}" if path.parent.name == "info" else path.name
    return replace(known, facts=known.facts | {"name": inside})


def _items(sheets: list[Sheet], known: Lines | None) -> pl.DataFrame:
    """Return the items of the info file, then those that only rows tell, with what the rows tell of either."""
    of_targets = pl.concat([_of_targets(sheet) for sheet in sheets]).group_by("item_id", maintain_order=True)
    told = of_targets.agg(pl.all().drop_nulls().first())
    listed = None if known is None else known.frame.filter(has_text("title"))["item_id"]
    shown = pl.concat([told.select("item_id", "title"), *(_of_histories(sheet, listed) for sheet in sheets)])
    first = shown.group_by("item_id", maintain_order=True).agg(pl.col("title").drop_nulls().first())
    if known is not None:
        extra = first.join(known.frame, on="item_id", how="anti", maintain_order="left")
        own = known.frame.select("item_id", pl.when(has_text("title")).then("title"))
        own = own.join(first, on="item_id", how="left", maintain_order="left")
        first = pl.concat([own.select("item_id", pl.coalesce("title", "title_right")), extra])
        told = told.join(known.frame.unique("item_id", keep="first"), on="item_id", how="full", coalesce=True)
        told = told.with_columns(pl.coalesce("sid_right", "sid").alias("sid"))
    whole = first.join(told.select("item_id", *_OTHERS.values()), on="item_id", how="left", maintain_order="left")
    whole = whole.with_columns(pl.col("sid").str.replace_all("><", "> <", literal=True))  # as `item_tokens` reads them
    others = whole.select(name for name in _OTHERS.values() if whole[name].null_count() < whole.height)
    return item_frame(whole["item_id"], whole["title"], others)


def _of_targets(sheet: Sheet) -> pl.DataFrame:
    wanted = {"item_id": "item_id", "item_title": "title"} | _OTHERS
    empty = pl.lit(None, pl.String)
    frame = sheet.frame.select(
        (pl.col(column) if column in sheet.frame.columns else empty).alias(name) for column, name in wanted.items()
    )
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _of_histories(sheet: Sheet, listed: pl.Series | None) -> pl.DataFrame:
    """Return the titles that histories tell of the items that are not among those listed."""
    if "history_item_title" not in sheet.frame.columns:
        return pl.DataFrame(schema={"item_id": pl.String, "title": pl.String})
    frame = pl.DataFrame([lists(sheet.column("history_item_id")).alias("item_id"), sheet.column("history_item_title")])
    if listed is not None:  # titles are slow to read, and few rows, if any, have items that info has not
        ids = frame.select("item_id").with_row_index("row").explode("item_id")
        frame = frame[ids.filter(~pl.col("item_id").is_in(listed.implode()))["row"].unique().sort()]
    frame = frame.select("item_id", lists(frame["history_item_title"]).alias("title"))
    even = frame.filter(pl.col("item_id").list.len() == pl.col("title").list.len())
    return even.explode("item_id", "title").drop_nulls()
