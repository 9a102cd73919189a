"""The command as a process: its address, signals under load, and bad input."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn

from cftrec.cli import main
from cftrec.commands import Serve
from cftrec.errors import InputError
from cftrec.serving import make_app
from cftrec.serving.api import Limits
from cftrec.serving.server import _listen, _Server

BODY = json.dumps({"histories": [["Star Wars", "Fargo"]], "k": 3})
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def process(runs):
    """The running command and its port."""
    command = [sys.executable, "-m", "cftrec.cli", "serve", *map(str, runs), "--port", "0", "--waiting", "16"]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    line = started.stdout.readline()
    assert line.startswith("cftrec serves on http://127.0.0.1:"), line + started.stderr.read()
    yield started, int(line.rstrip("/\n").rsplit(":", 1)[1])
    started.kill()
    started.wait()


def test_a_client_that_never_ends_its_request_does_not_hold_the_process(runs):
    command = [sys.executable, "-m", "cftrec.cli", "serve", str(runs[0]), "--port", "0", "--timeout", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        port = int(started.stdout.readline().rstrip("/\n").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            half_sent = http.client.HTTPConnection("127.0.0.1", port)
            assert ask(half_sent, "/readyz", None)[0] == 200
            half_sent.close()
            started.send_signal(signal.SIGTERM)
            try:
                assert started.wait(20) == 0
            finally:
                started.kill()


@contextmanager
def inside(runs, timeout_s: float):
    """Serve in this process; give the port, the service and the server."""
    app = make_app(runs[:1], limits=Limits(timeout_s=timeout_s))
    server = _Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", ws="none"), lambda: None)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], app.state.service, server
    finally:
        server.should_exit = True
        thread.join(30)


HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "


def test_who_does_not_finish_a_request_is_left(runs, monkeypatch):
    monkeypatch.setattr("cftrec.serving.server._IDLE_S", 0.5)

    def said(half: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(half)
            return b"".join(iter(lambda: connection.recv(2**16), b""))

    with inside(runs, timeout_s=0.5) as (port, *_):
        assert said(b"") == said(HEAD) == b""
        kept = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        assert said(kept + HEAD).count(b"HTTP/1.1 200") == 1
        for half in (b"100\r\n\r\n", b'100\r\n\r\n{"histories"'):
            answer = said(HEAD + half).lower()
            assert answer.startswith(b"http/1.1 408")
            assert b"application/problem+json" in answer
            assert b"connection: close" in answer


def test_who_does_not_read_is_left(runs, monkeypatch):
    monkeypatch.setattr("cftrec.serving.server._IDLE_S", 0.5)
    asked = 400  # answers of some 40 KB are more than the system's buffers hold
    with inside(runs, timeout_s=0.5) as (port, _, server), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        wait_for(lambda: any(one.flow.write_paused for one in server.server_state.connections))
        wait_for(lambda: not server.server_state.connections)
        answers = 0
        with suppress(ConnectionError):
            while piece := connection.recv(2**20):
                answers += piece.count(b"HTTP/1.1 200")
        assert 0 < answers < asked


def test_who_hangs_up_leaves_the_queue(runs):
    begun, go_on = threading.Event(), threading.Event()
    with inside(runs, timeout_s=60) as (port, service, _):
        service.batcher.submit("other", lambda values: [begun.set(), go_on.wait(90)] and values, 1)
        assert begun.wait(10)
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(HEAD + f"{len(BODY)}\r\n\r\n{BODY}".encode())
                wait_for(lambda: service.batcher.waiting == 1)
            wait_for(lambda: service.batcher.waiting == 0)
        finally:
            go_on.set()
        wait_for(lambda: b'cftrec_requests_total{route="/v1/recommend",status="499"} 1.0' in service.metrics.text())
        assert b'status="503"' not in service.metrics.text()


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask(
    connection: http.client.HTTPConnection, path: str = "/v1/recommend", body: str | None = BODY
) -> tuple[int, bytes]:
    connection.request("POST" if body else "GET", path, body, JSON)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_hup_reloads_and_term_answers_what_was_accepted(process):
    """Clients ask, over kept and over new connections, to the end: they get whole answers, or find the door closed."""
    started, port = process
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def client(keeps: bool) -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.connect()
            except ConnectionRefusedError:
                outcomes["door closed"] += 1
                return
            try:
                while not stop.is_set():
                    status, body = ask(connection)
                    assert json.loads(body)
                    outcomes[str(status)] += 1
                    if connection.sock is None or not keeps:  # asked to close
                        break
            except (ConnectionError, http.client.HTTPException, AssertionError, ValueError) as error:
                outcomes[repr(error)] += 1
            finally:
                connection.close()

    threads = [threading.Thread(target=client, args=(n % 2 == 0,)) for n in range(8)]
    for thread in threads:
        thread.start()

    def version() -> str:
        _, body = ask(http.client.HTTPConnection("127.0.0.1", port), "/v1/model", None)
        return json.loads(body)["models"][0]["loaded"]

    first = version()
    time.sleep(1)  # "loaded" counts seconds
    started.send_signal(signal.SIGHUP)
    end = time.monotonic() + 15
    while version() == first:
        assert time.monotonic() < end
        time.sleep(0.05)
    before = outcomes["200"]
    time.sleep(0.3)
    assert outcomes["200"] > before
    kept = http.client.HTTPConnection("127.0.0.1", port)
    assert ask(kept, "/readyz", None)[0] == 200
    started.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert ask(kept, "/readyz", None)[0] == 503
    assert kept.sock is None, "closed after the answer"
    assert started.wait(20) == 0
    for thread in threads:
        thread.join(20)
    stop.set()
    assert set(outcomes) <= {"200", "503", "door closed"}, outcomes
    assert outcomes["door closed"] == 8
    assert "Traceback" not in started.stderr.read()


LOADING = """
import sys, time, types
from cftrec.cli import main
def serve(*_, **__):
    print("loading", flush=True)
    time.sleep(60)
sys.modules["cftrec.serving"] = types.SimpleNamespace(serve=serve)
sys.modules["cftrec.serving.api"] = types.SimpleNamespace(Limits=lambda *_: None)
main(["serve", "a RUN that takes its time"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_while_a_run_is_loaded(number, code):
    with subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout.readline() == "loading\n"
        started.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(0.5)
        started.send_signal(number)
        try:
            assert started.wait(20) == code
        finally:
            started.kill()
        assert started.stderr.read() == ""


BUSY = """
import sys, time
from cftrec.cli import main
from cftrec.serving import answers
def recommend(*_):
    print("asked", flush=True)
    time.sleep(120)
answers.recommend = recommend
main(["serve", sys.argv[1], "--port", "0", "--timeout", "0.5"])
"""


def test_a_second_signal_does_not_wait_for_the_worker(runs):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(runs[0])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            port = int(started.stdout.readline().rstrip("/\n").rsplit(":", 1)[1])
            assert ask(http.client.HTTPConnection("127.0.0.1", port))[0] == 503, "not answered in time"
            assert started.stdout.readline() == "asked\n"
            started.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                started.wait(3)
            started.send_signal(signal.SIGTERM)
            assert started.wait(20) == 143
        finally:
            started.kill()
        assert "Traceback" not in started.stderr.read()


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *arguments])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


def test_the_token_is_what_stands_between_white_space(tmp_path, monkeypatch):
    def token(file: Path | None = None) -> str | None:
        given = []
        monkeypatch.setattr("cftrec.serving.serve", lambda *_, token, **__: given.append(token))
        Serve((tmp_path,), token_file=file).run()
        return given[0]

    monkeypatch.delenv("CFTREC_TOKEN", raising=False)
    assert token() is None
    monkeypatch.setenv("CFTREC_TOKEN", "secret\r\n")
    assert token() == "secret"
    (tmp_path / "token").write_text("ünder\n", encoding="utf-8")
    assert token(tmp_path / "token") == "ünder"


def test_bad_input(runs, tmp_path, capsys, monkeypatch):
    run = str(runs[0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in fails(capsys, run, "--port", str(taken.getsockname()[1]))
    assert "cannot listen" in fails(capsys, run, "--port", "99999")
    for host in ("é..b", "a" * 70, "a\0b"):
        assert "cannot listen" in fails(capsys, run, "--host", host, "--port", "0")
    with pytest.raises(InputError, match="cannot listen"):
        _listen("\udcff", 0)  # a byte that is no UTF-8; only a real stderr escapes it
    assert "not a run folder" in fails(capsys, str(tmp_path), "--port", "0")
    assert "two RUNs" in fails(capsys, run, run, "--port", "0")
    assert "at least one" in fails(capsys)
    assert "above 0" in fails(capsys, run, "--batch", "0")
    (tmp_path / "token").write_text("\n")
    assert "token is empty" in fails(capsys, run, "--token-file", str(tmp_path / "token"))
    assert "nowhere" in fails(capsys, run, "--token-file", str(tmp_path / "nowhere"))
    for unfit in (b"\xff\x00\x80", b"one\ntwo"):
        (tmp_path / "token").write_bytes(unfit)
        assert "printable" in fails(capsys, run, "--token-file", str(tmp_path / "token"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "cftrec[serve]" in fails(capsys, run)
