"""`cftrec data`, end to end: what is printed, and the page."""

import re
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
