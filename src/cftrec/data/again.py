"""Whether a DATASET was made of the same input with the same options: then nothing is left to do."""

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from cftrec.artefacts import MANIFEST, read_manifest, refuse_if_taken, sha256
from cftrec.data.options import PrepareOptions, named_options
from cftrec.data.sources import AUTO, recognise
from cftrec.data.sources.movielens import INSTALLED, installed_folder
from cftrec.errors import InputError

_WITHOUT_EFFECT = ("protocol", "memory")  # a protocol is what it sets


def already_prepared(out: Path, source: str | Path, format: str, options: PrepareOptions) -> bool:
    """Say whether `out` is the dataset that `prepare` would make, by its options and the checksums of the files read.

    Raises:
        InputError: `out` is taken by anything else; says what differs where it is a dataset.
    """
    if not (out / MANIFEST).is_file():
        refuse_if_taken(out)
        return False
    manifest = read_manifest(out, "dataset")
    differs = _difference(manifest, source, format, options)
    if differs is not None:
        raise InputError(
            f"{out}: the output folder is not empty, it holds a dataset of {differs}; "
            "name another one or remove it first"
        )
    return True


def names_beside(source: str | Path, names: list[str]) -> str | None:
    """Return a checksum of what files lie where those read lie, for another file could be read too; None of a file."""
    folder = _folder(source)
    if not folder.is_dir():
        return None
    parents = sorted({(folder / name).parent for name in names})
    beside = [str(path.relative_to(folder)) for parent in parents if parent.is_dir() for path in _files(parent)]
    return hashlib.sha256(os.fsencode("\n".join(beside))).hexdigest()


def _difference(manifest: dict[str, Any], source: str | Path, format: str, options: PrepareOptions) -> str | None:
    """Return what differs, in words, or None."""
    facts, given = manifest["source"], named_options(options)
    version = importlib.metadata.version("cftrec")
    if manifest["packages"]["cftrec"] != version:
        return f"another version of cftrec ({manifest['packages']['cftrec']}; this is {version})"
    other = [name for name, value in given.items() if manifest["options"].get(name, value) != value]
    other = [name for name in other if name not in _WITHOUT_EFFECT]
    if other:
        return f"other options ({', '.join(other)})"
    found, _ = recognise(source) if format == AUTO else (format, "")
    if found != facts["format"]:
        return f"another format ({facts['format']})"
    return _other_input(facts, source, options)


def _other_input(facts: dict[str, Any], source: str | Path, options: PrepareOptions) -> str | None:
    """Return which of the files read differs, in words, or None."""
    named = _folder(source)
    if named.is_file() and named.name != Path(facts["files"][0]["name"]).name:  # the log comes first, in every format
        return f"other input ({named.name})"
    for place, file in enumerate(facts["files"]):
        of_items = options.items if place == len(facts["files"]) - 1 else None
        path = Path(of_items) if of_items else _find(source, file["name"])
        if path is None or not path.is_file() or path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            return f"other input ({file['name']} differs)"
    if facts.get("names_beside") != names_beside(source, [file["name"] for file in facts["files"]]):
        return "other input (files have come or gone)"
    return None


def _find(source: str | Path, name: str) -> Path | None:
    """Return where a file that was read lies: in the source's folder or around it."""
    folder = _folder(source)
    around = folder if folder.is_dir() else folder.parent
    return next((path for path in (around / name, around.parent / name) if path.is_file()), None)


def _folder(source: str | Path) -> Path:
    return installed_folder() if str(source) == INSTALLED else Path(source)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
