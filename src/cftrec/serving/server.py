"""The process: an address, signals, and an orderly end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from cftrec.errors import InputError
from cftrec.serving.api import Limits, make_app
from cftrec.serving.runs import settle

_IDLE_S = 75  # nobody asks or reads: longer than proxies keep a connection, so that none meets a door just closed
_LEFT_S = 5  # after the time-out of the last request, until connections that still send or do not read are cut
_FAREWELL_S = 0.5  # in which kept connections may still ask, and are closed after the answer


class _Server(uvicorn.Server):
    """A server that says goodbye: it closes its door, then kept connections after their answers, then ends."""

    def __init__(self, config: uvicorn.Config, farewell: Callable[[], None]) -> None:
        super().__init__(config)
        self._farewell = farewell
        self._idle: dict[Any, float] = {}  # since when a connection is as it is: it waits for a request, or is not read

    async def on_tick(self, counter: int) -> bool:
        """Look once a second for connections that nobody uses; called ten times as often."""
        if counter % 10 == 0:
            self._close_idle()
        return await super().on_tick(counter)

    def _close_idle(self) -> None:
        """Close connections on which for long no request, or but half of its head, has come, or nothing was read.

        The protocol's own time-out begins after a first answer, and ends with the first byte of the next request.
        """
        now, before, self._idle = time.monotonic(), self._idle, {}
        for connection in list[Any](self.server_state.connections):
            unread = connection.transport.get_write_buffer_size()
            if unread or connection.cycle is None or connection.cycle.response_complete:
                key = connection, connection.cycle, unread
                self._idle[key] = before.get(key, now)
                if now - self._idle[key] > _IDLE_S:
                    connection.transport.abort()  # closing waits until all is read

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End once what was accepted is answered; at the second signal at once, whatever the worker is at."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, but not on those who stand in it, and give kept connections a moment."""
        self._farewell()
        doors = [door.dup() for door in sockets or []]  # closing the last one would reset whoever waits there
        for server in self.servers:
            server.close()
        waiting = [client for door in doors for client in _accept_all(door)]
        for client in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, client)
        await asyncio.sleep(_FAREWELL_S)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _accept_all(door: socket.socket) -> list[socket.socket]:
    """Accept whoever waits at a door and close it."""
    door.setblocking(False)
    waiting = []
    with contextlib.suppress(BlockingIOError):
        while True:
            waiting.append(door.accept()[0])
    door.close()
    for client in waiting:
        client.setblocking(False)
    return waiting


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
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=_IDLE_S,
        # Every request is answered by then; who is still sending one, or does not read the answer, is left.
        timeout_graceful_shutdown=ceil(service.limits.timeout_s) + _LEFT_S,
    )
    signal.signal(signal.SIGHUP, lambda *_: service.runs.reload())
    settle()
    bound, name = door.getsockname()[1], f"[{host}]" if ":" in host else host
    started(f"http://{name}:{bound}/")
    _Server(config, farewell).run(sockets=[door])


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket before the models are loaded: a taken port is known at once, and early requests wait."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host") from error
