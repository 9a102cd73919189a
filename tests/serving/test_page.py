"""The page in a real browser: a history by keyboard, what it causes, the address, and titles that would be markup."""

import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import uvicorn

from cftrec import CFTConfig, Dataset
from cftrec.serving import make_app
from cftrec.training import train

browser = pytest.importorskip("browser")
pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed")

HOSTILE = [
    "<img src=x onerror=document.title='broken'>",
    "<script>document.title='broken'</script>",
    '</li> & "quotes"',
]
TITLES = [*HOSTILE, "Star Wars (1977)", "Fargo (1996)", "Alien (1979)", "Aliens (1986)", "Amélie 🎬", "عربى", "X" * 120]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where two RUNs of a catalogue with hostile titles are served."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    users, length = 12, 8
    split = np.tile([0] * (length - 2) + [1, 2], users).astype(np.uint8)
    Dataset(
        items=pl.DataFrame({"item_id": [f"i,{n}&" for n in range(len(TITLES))], "title": TITLES}),
        users=pl.Series("user_id", [f"u{n}" for n in range(users)]),
        offsets=np.arange(users + 1) * length,
        events=rng.integers(0, len(TITLES), users * length).astype(np.int32),
        split=split,
        timestamps=None,
        manifest={},
    ).save(folder / "dataset")
    options = {"nano_vocab_size": 300, "nano_hidden_size": 16, "nano_layers": 1, "nano_heads": 2, "max_steps": 6}
    config = CFTConfig(use_cpu=True, category="movie", learning_rate=0.02, **options)
    runs = [train(folder / "dataset", folder / name, config) for name in ("one", "other")]
    server = uvicorn.Server(uvicorn.Config(make_app(runs), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def tab():
    with browser.open_page() as tab:
        yield tab


def ready(tab) -> None:
    tab.until("document.querySelectorAll('.card').length === 4 && !document.querySelector('.busy')")


def history(tab) -> list[str]:
    return tab.run("[...document.querySelectorAll('#history span')].map(one => one.textContent)")


def pick(tab, text: str, expected: str) -> None:
    tab.run("document.getElementById('query').focus()")
    tab.type(text)
    tab.until(f"document.querySelector('#found [aria-selected=true]')?.textContent === {expected!r}")
    tab.press("Enter")
    ready(tab)


def test_a_history_by_keyboard_and_why(tab, address, tmp_path):
    tab.look(1280, 900)
    tab.open(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    pick(tab, "star wasr", "Star Wars (1977)")
    tab.run("document.getElementById('query').focus()")
    tab.type("alien")
    tab.until("document.querySelectorAll('#found li').length === 2")
    tab.press("ArrowDown")
    chosen = tab.run(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).textContent"
    )
    tab.press("Enter")
    ready(tab)
    assert history(tab) == ["Fargo (1996)", "Star Wars (1977)", chosen]

    tab.run("document.querySelector('#history li:last-child [data-act=\"Move earlier\"]').focus()")
    tab.press("Enter")
    ready(tab)
    assert history(tab) == ["Fargo (1996)", chosen, "Star Wars (1977)"]
    assert tab.run("document.activeElement.getAttribute('aria-label')") == f"Move earlier: {chosen}"
    tab.run("document.querySelector('#history li:first-child [data-act=Remove]').focus()")
    tab.press("Enter")
    ready(tab)
    assert history(tab) == [chosen, "Star Wars (1977)"]

    tab.run("document.querySelector('button.item').focus()")
    tab.press("Enter")
    tab.until("document.querySelectorAll('.bars').length === 2")
    numbers = tab.run(
        "[...document.querySelectorAll('.bars')].map(table => [...table.rows].map(row =>"
        " [row.cells[0].textContent, Number(row.cells[2].textContent.replace('−', '-'))]))"
    )
    assert [title for title, _ in numbers[0]] == [chosen, "Star Wars (1977)"]
    total = float(
        tab.run("document.querySelector('.why p').textContent.match(/([+−][0-9.]+) nats/)[1]").replace("−", "-")
    )
    assert sum(value for _, value in numbers[1]) == pytest.approx(total, abs=0.006 * len(numbers[1]))
    for name, (width, dark) in {"light": (1280, False), "dark": (1280, True), "phone": (390, False)}.items():
        tab.look(width, 1000, dark=dark)
        tab.picture(tmp_path / f"{name}.png")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
    assert not tab.complaints


def test_the_address_holds_the_state(tab, address):
    tab.look(1280, 900)
    tab.open(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    tab.run("gamma.value = 1.5; gamma.dispatchEvent(new Event('input'))")
    tab.run("k.value = 5; k.dispatchEvent(new Event('change'))")
    tab.until("location.search.includes('gamma=1.5') && location.search.includes('k=5')")
    ready(tab)
    tab.run("document.querySelector('button.item').click()")
    tab.until("document.querySelector('.bars')")
    kept = tab.run("location.href")
    shown = tab.run("document.getElementById('models').innerText")
    tab.open("about:blank")
    tab.open(kept)
    tab.until("document.querySelector('.bars')")
    ready(tab)
    assert history(tab) == ["Fargo (1996)"]
    assert tab.run("document.querySelectorAll('.bars').length") >= 2
    assert tab.run("gamma.value") == "1.5"
    assert tab.run("document.getElementById('models').innerText").split("\n")[:3] == shown.split("\n")[:3]
    assert tab.run("[...document.querySelectorAll('.card ol')].map(list => list.children.length)") == [5, 5, 5, 5]


def test_titles_are_text(tab, address):
    tab.open(address)
    ready(tab)
    pick(tab, "onerror", HOSTILE[0])
    pick(tab, "script", HOSTILE[1])
    tab.run("document.querySelector('button.item').click()")
    tab.until("document.querySelector('.bars')")
    assert history(tab) == HOSTILE[:2]
    assert tab.run("document.title") == "cftrec: what a history causes"
    assert tab.run("document.querySelectorAll('main img, main script').length") == 0
    shown = tab.run("[...document.querySelectorAll('.title')].map(one => one.textContent)")
    assert set(shown) <= set(TITLES)
    assert not tab.complaints


def test_everything_has_a_name(tab, address):
    """By the browser's own accessibility tree; and no two elements share an id."""
    tab.open(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    tab.command("Accessibility.enable")
    nodes = tab.command("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "combobox", "searchbox", "slider", "textbox", "listbox", "group"}
    unnamed = [
        node
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in wanted
        and not (node.get("name", {}).get("value") or "").strip()
    ]
    assert not unnamed
    assert len(nodes) > 50
    assert tab.run("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size") == tab.run(
        "document.querySelectorAll('[id]').length"
    )


def test_the_page_is_small_and_fetches_nothing_from_elsewhere():
    folder = Path(make_app.__code__.co_filename).parent / "page"
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir()]
    assert sum(len(text.encode()) for text in texts) < 150_000
    for text in texts:
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text
