"""What a comparison needs of RUNs that take hours, kept beside their study's result and put back where they are gone.

No model, no scores of lists: a few hundred kB a RUN of some thousand users. What all RUNs of a study share, the
catalogue and the popular lists, is there once.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from cftrec.artefacts import MANIFEST, read_json, write_json

COPIED = ("evaluation.json", "effects.json")
CATALOGUE, POPULAR, RANKS, LOG = "catalogue.arrow", "popular.parquet", "ranks.parquet", "log.json"
ABOUT = "about.json"  # the last of what is kept


def keep_run(run: Path, kept: Path, about: dict[str, Any]) -> None:
    """Keep what comparing needs of an evaluated RUN, in a folder of its own beside those of the same study.

    Args:
        run: the RUN, whose evaluation of the test split is kept.
        kept: the folder; what is there is written anew.
        about: what the RUN was made of, which `put_back` compares.

    Raises:
        ValueError: the RUN's catalogue or popular lists are not those of the study's other RUNs.
    """
    catalogue = pl.read_ipc(run / CATALOGUE).select("item_id", "title", "count")
    shared = {CATALOGUE: catalogue, POPULAR: pl.read_parquet(run / POPULAR)}
    kept.mkdir(parents=True, exist_ok=True)
    for name, table in shared.items():
        path = kept.parent / name
        if not path.exists():
            _write(path, table)
        elif not table.equals(_read(path)):
            raise ValueError(f"{run}: its {name} is not that of the study's other RUNs")
    ranks = pl.read_parquet(run / RANKS)
    _write(kept / RANKS, ranks.with_columns(scores=pl.lit(None, ranks.schema["scores"])))
    tokens = sum(line.get("tokens_computed", 0) for line in read_json(run / LOG)["log"])
    write_json(kept / LOG, {"log": [{"tokens_computed": tokens}]})
    for name in COPIED:
        write_json(kept / name, read_json(run / name))
    write_json(kept / MANIFEST, read_json(run / MANIFEST) | {"files": {}})
    write_json(kept / ABOUT, about)


def put_back(kept: Path, run: Path, about: dict[str, Any]) -> None:
    """Make the folder of an evaluated RUN, without its model, if it is gone and one made of the same is kept."""
    if run.exists() or not (kept / ABOUT).exists() or read_json(kept / ABOUT) != about:
        return
    with TemporaryDirectory(dir=run.parent, prefix=".") as staging:
        folder = Path(staging) / run.name
        folder.mkdir()
        for name in (CATALOGUE, POPULAR):
            _write(folder / name, _read(kept.parent / name))
        for name in (RANKS, LOG, *COPIED, MANIFEST):
            shutil.copy(kept / name, folder)
        folder.rename(run)


def _read(path: Path) -> pl.DataFrame:
    return pl.read_ipc(path) if path.suffix == ".arrow" else pl.read_parquet(path)


def _write(path: Path, table: pl.DataFrame) -> None:
    if path.suffix == ".arrow":
        table.write_ipc(path, compression="zstd")
    else:
        table.write_parquet(path, compression="zstd", compression_level=22)
