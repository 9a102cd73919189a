"""Files as they are, or through gzip or zstd, which their first bytes tell: whatever their names end in."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, cast

from cftrec.errors import InputError
from cftrec.terminal import progress_bar

_LONG = 2**26  # bytes of a file from which on reading it shows a progress bar
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextmanager
def opened(path: Path, whole: bool) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """Open a file through whatever compresses it; gives it and what moves the bar on of one that is read whole."""
    damage: tuple[type[Exception], ...] = (EOFError,)
    try:
        shown = whole and path.stat().st_size >= _LONG
        with path.open("rb") as raw, _bar(path, raw) if shown else nullcontext(lambda: None) as advance:
            start = raw.read(4)
            raw.seek(0)
            file: IO[bytes] = raw
            if start.startswith(_GZIP):
                from isal import igzip, isal_zlib

                file = cast("IO[bytes]", igzip.IGzipFile(fileobj=raw))
                damage = (EOFError, cast("type[Exception]", isal_zlib.error), igzip.BadGzipFile)
            elif start == _ZSTD:
                zstd = _zstd(path)
                file, damage = zstd.ZstdFile(raw), (EOFError, zstd.ZstdError)
            yield file, advance
    except damage as error:
        raise InputError(f"{path}: the compressed file is damaged or ends early; fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file that is there") from error


def _zstd(path: Path) -> Any:
    """Return Python's module of zstd, which before Python 3.14 is the package backports.zstd."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return importlib.import_module(name)
    raise InputError(f"{path}: reading .zst needs the package backports.zstd; run `pip install backports.zstd`")


@contextmanager
def _bar(path: Path, raw: IO[bytes]) -> Iterator[Callable[[], None]]:
    """Show how much of a long file is read, in MiB."""
    with progress_bar(f"read {path.name} (MiB)") as advance:
        size = path.stat().st_size
        yield lambda: advance(raw.tell() >> 20, size >> 20)
