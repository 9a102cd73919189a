"""The one writer and reader of the folders that commands leave behind: whole, checksummed and versioned.

A folder appears under its name only when everything in it is written: it grows in a hidden sibling and is renamed at
the end, so an interrupted command leaves nothing that looks finished. Formats are Arrow IPC, Parquet, safetensors,
JSON and YAML; nothing is ever unpickled.
"""

import fcntl
import glob
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cftrec.errors import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_HASHED_BYTES = 2**30  # a second's work; larger files are checked by size unless their reader wants otherwise
_HELD: set[int] = set()  # descriptors of the folders that this process holds
_PACKAGES = ("cftrec", "torch", "transformers", "peft", "tokenizers", "polars", "numpy")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages a result depends on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def refuse_if_taken(path: Path) -> None:
    """Raise `InputError` unless `path` is free, absent or an empty folder, and can be written."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        parent = next((folder for folder in path.resolve().parents if folder.exists()), path)
    except (OSError, RuntimeError) as error:  # such as links in a circle
        raise InputError(f"{path}: cannot be created ({error}); choose a folder you may write") from error
    if taken:
        raise InputError(f"{path}: the output folder is not empty; name another one or remove it first")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{path}: cannot be created (no folder {parent} to write to); choose one you may write")


def refuse_unspellable(path: Path) -> None:
    """Raise `InputError` where a path is not UTF-8: the writers of models and tokenizers take no other."""
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path!a}: its name is not UTF-8, as a model's folder must be; name another one") from error


def remove_unfinished(path: Path) -> None:
    """Remove what a killed command has left of a folder; whoever calls knows that no other is at it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.partial"):  # as mkdtemp names them
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def new_folder(path: Path, kind: str, manifest: dict[str, Any]) -> Iterator[Path]:
    """Write a folder as a whole: yields an empty staging folder that becomes `path` when the block ends well.

    Args:
        path: where the folder shall stand; must be free (`refuse_if_taken`).
        kind: "dataset", "run", "predictions" or "comparison"; `read_manifest` checks it.
        manifest: filled by the block as it goes; written last, with the size and SHA-256 of every file.

    Raises:
        InputError: `path` is taken or its parent cannot be written.
    """
    path = path.resolve()
    refuse_if_taken(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be created ({error.strerror}); choose a folder you may write") from error
    try:
        yield staging
        head = {"kind": kind, "format_version": FORMAT_VERSION}
        write_json(staging / MANIFEST, head | manifest | {"packages": package_versions(), "files": _checksums(staging)})
        _publish(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def part_of(path: Path, manifest: Mapping[str, Any], part: str) -> Path:
    """Return where a part of a folder stands: in the folder itself until it was replaced."""
    return path / manifest.get("parts", {}).get(part, ".")


@contextmanager
def replaced_part(path: Path, manifest: Mapping[str, Any], part: str) -> Iterator[Path]:
    """Write a part of a folder anew, whole or not at all: yields an empty staging folder that becomes the part.

    The new part stands beside the old one, and the manifest, replaced in one step at the end, names it. The old one
    stays until the next replacement, for whoever has read the manifest before this one. What a killed replacement has
    left is removed.

    Args:
        path: the folder.
        manifest: the folder's, as read before the part that is replaced.
        part: the part's name.

    Raises:
        InputError: the folder is being changed, or was meanwhile, or cannot be written.
    """
    with held(path):
        if read_json(path / MANIFEST) != manifest:
            raise InputError(f"{path}: was changed meanwhile; run this command again")
        old = manifest.get("parts", {}).get(part)
        number = 2 if old is None else int(old.rpartition("-")[2]) + 1
        name = f"{part}-{number}"
        for left in [*path.glob(f".{part}.*.partial"), *path.glob(f"{part}-*")]:
            if left.name not in (old, f"{part}-{number - 2}"):
                shutil.rmtree(left, ignore_errors=True)
        try:
            staging = Path(tempfile.mkdtemp(prefix=f".{part}.", suffix=".partial", dir=path))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            yield staging
            _make_readable(staging)
            files = {file: facts for file, facts in manifest["files"].items() if not file.startswith(f"{old}/")}
            files |= {f"{name}/{file}": facts for file, facts in _checksums(staging).items()}
            staging = staging.rename(path / name)
            parts = manifest.get("parts", {}) | {part: name}
            write_json(path / MANIFEST, {**manifest, "parts": parts, "files": files})
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        shutil.rmtree(path / f"{part}-{number - 2}", ignore_errors=True)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a folder for one command that changes it; a kill lets it go, also where processes that it forked live on.

    Raises:
        InputError: another command holds it, or it cannot be read.
    """
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    _HELD.add(folder)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path}: another command is changing it; run this one again when that is done") from error
        except OSError:  # a file system that knows no locks, on which nobody is held back
            pass
        yield
    finally:
        _HELD.discard(folder)
        os.close(folder)


def _let_go() -> None:
    """Close what the parent holds: a lock lasts until every process that has the descriptor has closed it."""
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_let_go)


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file in a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}


def _make_readable(folder: Path) -> None:
    """Give a folder of mkdtemp, whose are private, the permissions of the process's other files."""
    mask = _umask()
    for item in (folder, *folder.rglob("*")):
        item.chmod((0o777 if item.is_dir() else 0o666) & ~mask)


def _publish(staging: Path, path: Path) -> None:
    """Put a finished folder under its name, unless another command was faster."""
    _make_readable(staging)
    refuse_if_taken(path)
    if not path.exists():
        try:
            staging.rename(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be created ({error.strerror}); is another command making it?") from error
        return
    # An empty folder may be a mount point or where the user stands: it stays, and what makes it count comes last.
    moved = []
    try:
        for item in sorted(staging.iterdir(), key=lambda item: item.name == MANIFEST):
            moved.append(path / item.name)
            shutil.move(item, path / item.name)
    except BaseException:
        for item in moved:
            shutil.rmtree(item) if item.is_dir() else item.unlink(missing_ok=True)
        raise
    staging.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_manifest(path: Path, kind: str, *others: str, hashed_bytes: int | None = _HASHED_BYTES) -> dict[str, Any]:
    """Return the manifest of a folder after checking its kind, version, and files: by checksum, large ones by size.

    Args:
        path: the folder.
        kind: what it should be.
        others: kinds that will do, too.
        hashed_bytes: the largest file whose checksum is compared (default 1 GiB); None compares every one.

    Raises:
        InputError: not such a folder, a run without a name, made by a later version, or a file is missing or cut.
    """
    maker = {"dataset": "cftrec prepare", "run": "cftrec train"}.get(kind, "cftrec")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found, version, files = manifest["kind"], int(manifest["format_version"]), dict(manifest["files"])
        expected = [(path / name, facts["bytes"], facts["sha256"]) for name, facts in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a {kind} folder (no readable {MANIFEST}); make one with `{maker}`") from error
    if found not in (kind, *others):
        raise InputError(f"{path}: this is a {found} folder, where a {kind} is needed; make one with `{maker}`")
    if found == "run" and not isinstance(manifest.get("name"), str):
        raise InputError(f"{path / MANIFEST}: has no name of the run; make it again with `{maker}`")
    if version > FORMAT_VERSION:
        raise InputError(f"{path}: written in format {version}, newer than this cftrec; update it")
    for file, size, checksum in expected:
        if not file.is_file() or file.stat().st_size != size:
            raise InputError(f"{file}: missing or cut since it was written; make the {kind} again with `{maker}`")
        if (hashed_bytes is None or size <= hashed_bytes) and sha256(file) != checksum:
            raise InputError(f"{file}: changed since it was written; make the {kind} again with `{maker}`")
    return manifest


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON in one step: the file is either the old one or the whole new one."""
    staging = path.with_name(f".{path.name}.partial")
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    if not text.isascii() and text != text.encode(errors="replace").decode():  # such as a file's name in another coding
        text = json.dumps(value, indent=2, default=_plain)
    staging.write_text(text + "\n", encoding="utf-8")
    staging.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; `InputError` names it where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error


def stored_arrays(path: Path, key: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return arrays that were stored under a key, else make them and store them for the next time, in one step.

    Args:
        path: the safetensors file; one that is broken or has another key is replaced.
        key: names everything that the arrays depend on, such as a hash.
        make: computes the arrays; where the folder cannot be written they are computed each time.
    """
    with suppress(OSError, SafetensorError), safe_open(path, "numpy") as file:
        if (file.metadata() or {}).get("key") == key:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays = make()
    with suppress(OSError, SafetensorError), tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as staging:
        made = Path(staging) / path.name
        save_file(arrays, made, {"key": key})
        made.chmod(0o666 & ~_umask())  # safetensors makes it private
        made.replace(path)
    return arrays


def _plain(value: Any) -> Any:
    """Turn paths and numpy scalars into what JSON knows."""
    return str(value) if isinstance(value, Path) else value.item()
