"""The process: an address, signals, and an orderly end."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from cftrec.errors import InputError
from cftrec.serving.api import Limits, make_app

_IDLE_S = 75  # a kept connection: longer than proxies keep theirs, so that none meets a door just closed
_FAREWELL_S = 0.5  # still answering, connections closed after each answer, before no more are taken


class _Server(uvicorn.Server):
    """A server that says goodbye: on SIGTERM it first closes kept connections after their answers, then its door."""

    def __init__(self, config: uvicorn.Config, farewell: Callable[[], None]) -> None:
        super().__init__(config)
        self._farewell = farewell

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End once what was accepted is answered; at the second signal at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self._farewell()
        threading.Timer(_FAREWELL_S, self._close).start()

    def _close(self) -> None:
        self.should_exit = True


def serve(
    folders: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve RUNs until SIGTERM or SIGINT, after which every accepted request is still answered.

    A RUN is loaded anew when its folder is replaced, and on SIGHUP; requests go on with the version they began with.

    Args:
        folders: RUN folders, at least one.
        host: address to listen on.
        port: port to listen on; 0: any that is free.
        limits: how much the service takes on.
        token: what requests must bear; None: nothing.
        started: called with the page's address once connections are accepted.

    Raises:
        InputError: a folder is no RUN, two have one name, or the address cannot be had.
    """
    door = _listen(host, port)
    app = make_app(folders, limits=limits, token=token)
    service = app.state.service

    def farewell() -> None:
        service.draining = True

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("cftrec.serving").setLevel(logging.INFO)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="on", timeout_keep_alive=_IDLE_S
    )
    signal.signal(signal.SIGHUP, lambda *_: service.runs.reload())
    bound, name = door.getsockname()[1], f"[{host}]" if ":" in host else host
    started(f"http://{name}:{bound}/")
    _Server(config, farewell).run(sockets=[door])


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket before the models are loaded: a taken port is known at once, and early requests wait."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host") from error
