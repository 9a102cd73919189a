"""Small configs, and what a trainer needs made once for each of them."""

from collections.abc import Callable
from typing import Any

import pytest
from small_options import SMALL

from cftrec.training import CFTConfig
from cftrec.training.run import assemble, quiet_transformers

quiet_transformers()


@pytest.fixture(scope="session")
def small_config(tmp_path_factory) -> Callable[..., CFTConfig]:
    """Make a config of a tiny model; options go before `SMALL`."""

    def make(**options: Any) -> CFTConfig:
        return CFTConfig(**{"output_dir": str(tmp_path_factory.mktemp("out"))} | SMALL | options)

    return make


@pytest.fixture(scope="session")
def assembled(dataset, small_config) -> Callable[..., tuple[Any, Any]]:
    """Return prompt and catalogue of some options, as training makes them; equal options share them."""
    known: dict[tuple[Any, ...], Any] = {}

    def make(**options: Any) -> tuple[Any, Any]:
        key = tuple(sorted(options.items()))
        if key not in known:
            known[key] = assemble(dataset, small_config(**options))[2:]
        return known[key]

    return make


@pytest.fixture(scope="session")
def model_folder(dataset, small_config, tiny_model, tmp_path_factory):
    """Save a model of a kind with a tokenizer that knows the catalogue."""

    def make(kind, **shape):
        _, tokenizer, _, _ = assemble(dataset, small_config())
        folder = tmp_path_factory.mktemp(kind)
        tiny_model(kind, len(tokenizer), **shape).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make
