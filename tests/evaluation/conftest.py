"""Logs and evaluated RUNs of this folder's tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import make_dataset, ranker_for, write_run

from cftrec.data.dataset import Dataset
from cftrec.evaluation import evaluate


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def evaluated(tmp_path: Path, dataset: Dataset) -> Callable[..., Path]:
    """Return a maker of evaluated RUNs: evaluated("plain", noise=3) -> its folder."""

    def make(
        name: str,
        noise: float = 0.0,
        seed: int = 0,
        of: Dataset = dataset,
        folder: str = "",
        config: dict[str, Any] | None = None,
    ) -> Path:
        ranker = ranker_for(of, name, noise, seed)
        path = write_run(tmp_path / (folder or name), ranker, of, **config or {})
        evaluate(ranker, of, out=path)
        return path

    return make
