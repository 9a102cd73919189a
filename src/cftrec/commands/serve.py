"""A RUN for others: over HTTP, as a plain model, and the whole flow as a demonstration."""

import importlib.util
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

from tyro.conf import Positional, arg

from cftrec.errors import InputError


@contextmanager
def _signals_while_loading() -> Iterator[None]:
    """Until the service heeds signals itself: end at once and quietly, and outlive the one that asks for a reload."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)  # nothing is half done, and an exception may get lost in what is being imported

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


@dataclass
class Serve:
    """Serve RUNs over HTTP, with a page to look at them; the token comes from CFTREC_TOKEN or a file."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...")]
    """RUN folders of `cftrec train`; the first answers requests that name none"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 is all of this machine's"""
    port: int = 8000
    """port to listen on; 0: any that is free"""
    token_file: Path | None = None
    """file with a token that requests must bear; left out, CFTREC_TOKEN, and without that no token"""
    batch: int = 32
    """histories answered at once"""
    waiting: int = 256
    """histories that may wait; beyond it requests are refused (503, Retry-After)"""
    timeout: float = 30
    """seconds until a request without an answer is refused"""

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        with _signals_while_loading():
            self._serve()

    def _serve(self) -> None:
        if importlib.util.find_spec("fastapi") is None:
            raise InputError("serving needs more packages; install them with pip install 'cftrec[serve]'")
        from cftrec.serving import serve
        from cftrec.serving.api import Limits

        if not self.runs:
            raise InputError("give at least one RUN folder")
        if self.batch < 1 or self.waiting < 1 or not 0 < self.timeout < math.inf:
            raise InputError("--batch, --waiting and --timeout must be above 0, and --timeout finite")
        serve(
            self.runs,
            self.host,
            self.port,
            limits=Limits(self.batch, self.waiting, self.timeout),
            token=self._token(),
            started=lambda address: print(f"cftrec serves on {address}", flush=True),
        )

    def _token(self) -> str | None:
        """Return the token without the white space around it, None where there is none to be borne."""
        if self.token_file is None:
            token, place = os.environ.get("CFTREC_TOKEN"), "CFTREC_TOKEN"
        else:  # what is no UTF-8 is escaped, as in the environment, and is not printable
            token, place = self.token_file.read_text("utf-8", "surrogateescape"), str(self.token_file)
        if token is None:
            return None
        token = token.strip()
        if not token:
            raise InputError(f"{place}: the token is empty; write one into it, or leave it out")
        if not token.isprintable():
            raise InputError(f"{place}: the token must be one line of printable text")
        return token


@dataclass
class Export:
    """Write a RUN's model as a plain folder of transformers with a model card, which loads without cftrec."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    out: Path | None = None
    """folder to make; must be free; left out, it is `export` in the RUN"""
    merge: bool = False
    """of a RUN with LoRA adapters, write the whole model, the adapters merged into it, instead of the adapters alone"""

    def run(self) -> None:
        """Export and say where."""
        from cftrec.export import export

        print(export(self.run_folder, self.out, self.merge))


@dataclass
class Demo:
    """The whole flow on MovieLens-100K: prepare, train plain and CFT models, evaluate, compare, report."""

    out: Path = Path("demo")
    """folder to make; an interrupted demo goes on in it"""

    def run(self) -> None:
        """Run all steps and say where the report is."""
        from cftrec.demo import demo

        print(demo(self.out))
