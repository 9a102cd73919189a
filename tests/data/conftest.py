"""Small sources in the exact shape of the public ones, written by hand."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from hand_written import INTER, ITEM

GAMES = Path(__file__).parents[3] / "shared" / "data" / "amazon-games"


@pytest.fixture(scope="session")
def games() -> Path:
    """The Amazon Video Games folder that may lie beside the project."""
    if not GAMES.is_dir():
        pytest.skip("the Amazon Video Games files are not beside the project (../shared/data/amazon-games)")
    return GAMES


@pytest.fixture(scope="session")
def installed() -> str:
    """The source name of the MovieLens-100K that the recbole package carries."""
    if importlib.util.find_spec("recbole") is None:
        pytest.skip("MovieLens-100K is not installed (pip install --no-deps recbole==1.2.1)")
    return "installed"


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write files into a new folder: `folder({"a.inter": "text"})`; bytes go as they are."""

    def write(files: dict[str, str | bytes], name: str = "source") -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        for file, content in files.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def atomic(folder: Callable[..., Path]) -> Path:
    """A folder of atomic files, a row an event."""
    return folder({"ml.inter": INTER, "ml.item": ITEM})
