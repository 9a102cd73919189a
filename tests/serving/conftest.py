"""Two small RUNs, and the application that serves them."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cftrec import CFTConfig
from cftrec.serving import make_app
from cftrec.serving.api import Limits
from cftrec.training import train

SMALL = {"nano_vocab_size": 300, "nano_hidden_size": 16, "nano_layers": 1, "nano_heads": 2}
SMALL |= {"use_cpu": True, "max_steps": 12, "window": 4, "history_stride": 2, "learning_rate": 0.02}


@pytest.fixture(scope="session")
def runs(dataset, tmp_path_factory) -> list[Path]:
    """A CFT model, and a plain one that has trained a prior and recommends by the vocabulary softmax."""
    folder = tmp_path_factory.mktemp("served")
    dataset.save(folder / "dataset")
    plain = {"effect_weight": 0.0, "prior_weight": 0.1, "decode_softmax": "vocabulary"}
    return [
        train(folder / "dataset", folder / name, CFTConfig(category="movie", **SMALL | more))
        for name, more in (("cft", {}), ("plain", plain))
    ]


@pytest.fixture(scope="session")
def app(runs):
    return make_app(runs, limits=Limits(batch=8, waiting=64, timeout_s=20))


@pytest.fixture(scope="session")
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
