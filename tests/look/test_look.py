"""`cftrec data`, end to end: what is printed, and the page."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from cftrec.cli import main
from cftrec.data import Dataset
from cftrec.data.summary import summarise


@pytest.fixture(scope="module", params=["time", "leave-one-out", "d3", "untimed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("look")
    rows = [
        (f"u{user}", f"i{(user * place) % 7}", 1_500_000_000 + 1000 * user + place)
        for user in range(20)
        for place in range(5 + user % 3)
    ]
    items = [(f"i{n}", f"<script>alert({n})</script>") for n in range(7)]
    pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row").write_csv(path / "log.csv")
    pl.DataFrame(items, ["item_id", "title"], orient="row").write_csv(path / "items.csv")
    command = ["prepare", str(path / "log.csv"), "--items", str(path / "items.csv"), "--out", str(path / "d")]
    if request.param != "untimed":
        command += ["--timestamp-column", "time", "--protocol", request.param]
    main(command)
    return path / "d"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "br", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use"):
            assert self.open.pop() == tag


def test_look(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    page = tmp_path / "page.html"
    main(["data", str(folder), "--category", "movie", "--html", str(page)])
    shown = capsys.readouterr().out
    data = Dataset.load(folder)
    summary = summarise(data)
    assert shown.startswith(f"d: {len(data.users)} users" if data.manifest["name"] == "d" else "log.csv: ")
    assert f"{len(data.events):,} events" in shown
    assert shown.count("train sample") == 10
    assert shown.count("movie history, in order:") == 11
    for name, row in summary["quantiles"].items():
        (line,) = (line for line in shown.splitlines() if line.startswith(name))
        assert [int(cell.replace(",", "")) for cell in line.removeprefix(name).split()] == list(row.values())
    for name in data.manifest["leakage"]:
        assert name.replace("_", " ") in shown
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert tags.seen.count("svg") == (2 if data.timestamps is None else 3)
    assert "script" not in tags.seen
    assert "&lt;script&gt;alert(" in text
    assert not re.search(r'(?:src|href)="(?!#)', text.replace("http://www.w3.org/1999/xlink", ""))
    assert text.count('class="sample"') == 11


def test_a_page_is_not_written_over(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.html").write_text("x")
    with pytest.raises(SystemExit) as stop:
        main(["data", str(folder), "--html", str(tmp_path / "mine.html")])
    assert stop.value.code == 2
    assert "mine.html: is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "x"


def test_names_in_another_coding_are_escaped(tmp_path: Path) -> None:
    log = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv"))
    log.write_text("user_id,item_id,title\n" + "".join(f"u,{n},T{n}\n" for n in range(4)))
    main(["prepare", str(log), "--out", str(tmp_path / "d")])
    command = [sys.executable, "-m", "cftrec.cli", "data", str(tmp_path / "d"), "--html", str(tmp_path / "page.html")]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    shown = subprocess.run(command, capture_output=True, text=True, env=strict, check=True).stdout
    assert "caf\\udce9.csv: 1 users" in shown
    assert "caf\\udce9.csv" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for page, reason in (("page.html", "No space left"), ("nowhere/page.html", "No such file")):
        with pytest.raises(SystemExit) as stop:
            main(["data", str(folder), "--html", str(tmp_path / page)])
        assert stop.value.code == 2
        assert f"{page}: cannot be written ({reason}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_whatever_the_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset.load(folder)
    data.save(tmp_path / "d")
    events = tmp_path / "d" / "events.arrow"
    content = bytearray(events.read_bytes())
    content[content.index(data.events.tobytes()[:64])] ^= 1
    events.write_bytes(content)
    monkeypatch.setattr("cftrec.data.dataset._HASHED_BYTES", 0)
    Dataset.load(tmp_path / "d")  # of a long log only the size is compared
    with pytest.raises(SystemExit) as stop:
        main(["data", str(tmp_path / "d")])
    assert stop.value.code == 2
    assert "events.arrow: changed since it was written" in capsys.readouterr().err
