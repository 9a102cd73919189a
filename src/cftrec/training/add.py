"""New items for a RUN, without training: they can be recommended at once, and it is said of them that no one taught it.

The model has never had to choose them, so their scores are what it makes of their titles' words.
"""

from pathlib import Path

import polars as pl
import yaml
from transformers import AutoTokenizer

from cftrec.artefacts import read_json, read_manifest, replaced_part
from cftrec.data.sources.sheet import as_text
from cftrec.data.titles import clean
from cftrec.errors import InputError
from cftrec.text import Catalogue, Prompt, item_sequences
from cftrec.training.run import CATALOGUE, CONFIG, MODEL, PROMPT, catalogue_of


def add_items(run: Path, items: pl.DataFrame) -> Catalogue:
    """Put new items behind those of a RUN's catalogue and save it in the RUN, whole or not at all.

    Args:
        run: the RUN folder.
        items: columns `item_id` and `title`, those that the RUN's `item_text` or `item_tokens` needs, and any others.
            Texts are cleaned as `cftrec prepare` cleans them.

    Returns:
        The catalogue as it now is.

    Raises:
        InputError: not a RUN; a column is missing, or a cell of the two is empty; an id or a title is there already; a
            title is so long that no prompt would fit with it; the RUN was changed meanwhile.
    """
    manifest = read_manifest(run, "run")
    table = _cleaned(items)
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    named = config.get("item_text", "{title}"), config.get("item_tokens")
    prompt = Prompt.from_dict(read_json(run / PROMPT))
    tokenizer = AutoTokenizer.from_pretrained(run / MODEL, local_files_only=True)
    sequences = item_sequences(table, *named, tokenizer, prompt)
    catalogue = catalogue_of(run, manifest).extended(table, sequences)
    if prompt.max_tokens is not None:
        prompt.room(catalogue.longest, catalogue.longest_name)
    with replaced_part(run, manifest, CATALOGUE) as folder:
        catalogue.save(folder)
    return catalogue


def _cleaned(items: pl.DataFrame) -> pl.DataFrame:
    """Return the table as str, its texts cleaned, after checking ids and titles."""
    columns = [as_text(column) for column in items.get_columns()]
    table = pl.DataFrame([column for column in columns if column is not None])
    for name in ("item_id", "title"):
        if name not in table.columns:
            raise InputError(f"new items: no column {name!r}; there are {', '.join(table.columns) or 'none'}")
    table = table.with_columns(clean(table[name]) for name in table.columns if name != "item_id")
    for name in ("item_id", "title"):
        empty = (table[name].fill_null("").str.strip_chars() == "").arg_true()
        if len(empty):
            raise InputError(f"new items: row {empty[0] + 1} has no {name}; fill it in or leave the row out")
    if not table.height:
        raise InputError("new items: the table has no rows")
    return table
