"""What an evaluation has measured so far, batch by batch, so that one that is interrupted goes on where it was."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from cftrec.artefacts import MANIFEST, stored_arrays

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Parts:
    """Batches' arrays, in a hidden folder beside the evaluation until that is whole.

    Attributes:
        folder: None: nothing is kept.
        key: names all that the arrays depend on, but for which targets they are of; those of another are made anew.
    """

    folder: Path | None = None
    key: str = ""

    @classmethod
    def of(cls, run: Path, folder: Path, job: dict[str, Any], name: str = "evaluation") -> Self:
        """Keep the parts of a RUN's evaluation, written to `folder`; of what has no manifest yet, none are kept.

        Args:
            run: the RUN, whose manifest names its files by their sums.
            folder: of the evaluation.
            job: what is measured, as JSON knows it.
            name: of what is written there, so that two kinds of it in one folder keep their own.
        """
        manifest = run / MANIFEST
        if not manifest.is_file():
            return cls()
        key = hashlib.sha256(manifest.read_bytes() + json.dumps(job, sort_keys=True, default=str).encode()).hexdigest()
        return cls(folder / f".{name}.parts", key)

    def get(self, kind: str, begin: int, end: int, make: Callable[[], Arrays]) -> Arrays:
        """Return arrays of targets begin:end, made unless they are kept."""
        folder = self.folder
        if folder is None:
            return make()

        def made() -> Arrays:
            arrays = make()
            folder.mkdir(parents=True, exist_ok=True)  # not before: what is refused leaves nothing
            return arrays

        return stored_arrays(folder / f"{kind}-{begin:09}-{end:09}.safetensors", self.key, made)

    def drop(self) -> None:
        """Remove them all, once the evaluation is whole."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
