"""The page in a real browser: a history by keyboard, what it causes, the address, and titles that would be markup."""

import re
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import polars as pl
import pytest
import uvicorn

from cftrec import CFTConfig, Dataset
from cftrec.serving import make_app
from cftrec.training import train

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HOSTILE = [
    "<img src=x onerror=document.title='broken'>",
    "<script>document.title='broken'</script>",
    '</li> & "quotes"',
]
TITLES = [*HOSTILE, "Star Wars (1977)", "Fargo (1996)", "Alien (1979)", "Aliens (1986)", "Amélie 🎬", "عربى", "X" * 120]


def train_on(titles: list[str], folder: Path, *names: str) -> list[Path]:
    """Train RUNs on a log over some titles, whose ids are their places."""
    rng = np.random.default_rng(0)
    users, length = 12, 8
    split = np.tile([0] * (length - 2) + [1, 2], users).astype(np.uint8)
    Dataset(
        items=pl.DataFrame({"item_id": [f"i,{n}&" for n in range(len(titles))], "title": titles}),
        users=pl.Series("user_id", [f"u{n}" for n in range(users)]),
        offsets=np.arange(users + 1) * length,
        events=rng.integers(0, len(titles), users * length).astype(np.int32),
        split=split,
        timestamps=None,
        manifest={},
    ).save(folder / "dataset")
    options = {"nano_vocab_size": 300, "nano_hidden_size": 16, "nano_layers": 1, "nano_heads": 2, "max_steps": 6}
    config = CFTConfig(use_cpu=True, category="movie", learning_rate=0.02, **options)
    return [train(folder / "dataset", folder / name, config) for name in names]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two RUNs of a catalogue with hostile titles."""
    return train_on(TITLES, tmp_path_factory.mktemp("page"), "one", "other")


@contextmanager
def served(app):
    """Serve an application and give its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(runs):
    """Where the two RUNs are served."""
    with served(make_app(runs)) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium):
    """A tab; what it writes to its console, or throws, fails the test."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900}, locale="en")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert not complaints


def ready(tab) -> None:
    """Wait for two lists of each RUN."""
    playwright.expect(tab.locator(".card")).to_have_count(4)
    playwright.expect(tab.locator(".busy")).to_have_count(0)


def history(tab) -> list[str]:
    return tab.locator("#history span").all_text_contents()


def pick(tab, text: str, expected: str) -> None:
    tab.get_by_label("Add a title").fill(text)
    playwright.expect(tab.locator("#found [aria-selected=true]")).to_have_text(expected)
    tab.keyboard.press("Enter")
    ready(tab)


def test_a_history_by_keyboard_and_why(tab, address, tmp_path):
    tab.goto(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    pick(tab, "star wasr", "Star Wars (1977)")
    tab.get_by_label("Add a title").fill("alien")
    playwright.expect(tab.locator("#found li")).to_have_count(2)
    tab.keyboard.press("ArrowDown")
    active = tab.get_by_label("Add a title").get_attribute("aria-activedescendant")
    chosen = tab.locator(f"id={active}").text_content()
    tab.keyboard.press("Enter")
    ready(tab)
    assert history(tab) == ["Fargo (1996)", "Star Wars (1977)", chosen]

    tab.get_by_role("button", name="Move earlier: Star Wars (1977)").focus()
    tab.keyboard.press("Enter")
    ready(tab)
    assert history(tab) == ["Star Wars (1977)", "Fargo (1996)", chosen]
    focused = tab.locator(":focus")
    assert focused.get_attribute("aria-label").endswith(": Star Wars (1977)")
    tab.get_by_role("button", name="Remove: Star Wars (1977)").focus()
    tab.keyboard.press("Enter")
    ready(tab)
    assert history(tab) == ["Fargo (1996)", chosen]

    tab.locator("button.item").first.focus()
    tab.keyboard.press("Enter")
    bars = tab.locator(".bars")
    playwright.expect(bars).to_have_count(2)
    numbers = bars.evaluate_all(
        "tables => tables.map(table => [...table.rows].map(row =>"
        " [row.cells[0].textContent, Number(row.cells[2].textContent.replace('−', '-'))]))"
    )
    assert [title for title, _ in numbers[0]] == ["Fargo (1996)", chosen]
    told = tab.locator(".why p").first.text_content()
    total = float(re.search(r"([+−][0-9.]+) nats", told)[1].replace("−", "-"))
    assert sum(value for _, value in numbers[1]) == pytest.approx(total, abs=0.006 * len(numbers[1]))
    for name, (width, scheme) in {"light": (1280, "light"), "dark": (1280, "dark"), "phone": (390, "light")}.items():
        tab.set_viewport_size({"width": width, "height": 1000})
        tab.emulate_media(color_scheme=scheme)
        tab.screenshot(path=tmp_path / f"{name}.png")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"


def test_enter_takes_what_the_text_finds_however_fast_it_comes(tab, address):
    tab.goto(address)
    ready(tab)
    query = tab.get_by_label("Add a title")
    query.fill("fargo")
    playwright.expect(tab.locator("#found [aria-selected=true]")).to_have_text("Fargo (1996)")
    query.evaluate(
        """field => {
             field.value = "star wasr";
             field.dispatchEvent(new Event("input"));
             field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
           }"""
    )
    playwright.expect(tab.locator("#history span")).to_have_text(["Star Wars (1977)"])
    ready(tab)


def test_the_slider_and_the_search_do_not_stop_each_other(tab, address):
    tab.goto(address)
    ready(tab)
    with tab.expect_request(lambda request: "recommend" in request.url and '"gamma":1' in request.post_data):
        tab.evaluate(
            """() => {
                 const gamma = document.getElementById("gamma");
                 gamma.value = 1;
                 gamma.dispatchEvent(new Event("input"));
                 document.getElementById("query").focus();
               }"""
        )
    with tab.expect_request("**/v1/items?q=fargo*"):
        tab.evaluate(
            """() => {
                 const query = document.getElementById("query"), gamma = document.getElementById("gamma");
                 query.value = "fargo";
                 query.dispatchEvent(new Event("input"));
                 gamma.value = 2;
                 gamma.dispatchEvent(new Event("input"));
               }"""
        )
    tab.wait_for_url("**gamma=2**")
    ready(tab)


def test_the_enter_that_ends_a_composition_picks_nothing(tab, address):
    tab.goto(address)
    ready(tab)
    query = tab.get_by_label("Add a title")
    query.fill("fargo")
    playwright.expect(tab.locator("#found [aria-selected=true]")).to_have_text("Fargo (1996)")
    query.evaluate("field => field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true }))")
    assert history(tab) == [] and query.input_value() == "fargo"
    query.evaluate("field => field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }))")
    playwright.expect(tab.locator("#history span")).to_have_text(["Fargo (1996)"])
    ready(tab)


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        (5, "148 times likelier"),
        (-9.43, "12,457 times less likely"),
        (2.3, "10 times likelier"),
        (0.5, "1.6 times likelier"),
    ],
)
def test_what_is_told_of_an_effect_and_of_parts_of_titles(tab, address, effect, told):
    tokens = [
        {"text": "", "closing": False, "choice": True, "effect": 1},
        {"text": "千", "closing": False, "choice": True, "effect": 2},
        {"text": "と", "closing": False, "choice": False, "effect": 0},
        {"text": " ", "closing": False, "choice": True, "effect": 3},
        {"text": "", "closing": True, "choice": True, "effect": 4},
    ]
    found = {"effect": effect, "log_p": -1, "log_prior": -1 - effect, "history": [], "tokens": tokens}
    tab.route("**/v1/explain", lambda route: route.fulfill(json=found))
    tab.goto(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    tab.locator("button.item").first.click()
    playwright.expect(tab.locator(".why p").first).to_contain_text(f"it is {told} than for anyone")
    names = ["(part of a character)", "千と", "(space)", "(end of title)"]
    playwright.expect(tab.locator(".bars").last.locator("th")).to_have_text(names)


def test_a_model_that_fails_leaves_the_other_its_lists(chromium, address):
    def fail(route):
        if route.request.post_data_json["model"] == "one":
            return route.fulfill(status=422, json={"detail": "it is gone"})
        return route.fallback()

    tab = chromium.new_page()
    tab.route("**/v1/recommend", fail)
    tab.goto(address)
    playwright.expect(tab.get_by_label("other", exact=True).locator(".card")).to_have_count(2)
    playwright.expect(tab.get_by_label("one", exact=True).locator("p")).to_have_text("Not answered: it is gone.")
    playwright.expect(tab.locator(".card")).to_have_count(2)
    tab.close()


def test_a_run_that_lacks_the_picked_titles_is_not_asked(tab, runs, tmp_path):
    """Its ids are those of the first RUN, and mean other titles from Star Wars on; its last is missing."""
    foreign = train_on([*TITLES[:3], *TITLES[4:]], tmp_path, "foreign")
    with served(make_app([runs[0], *foreign])) as address:
        tab.goto(address)
        ready(tab)
        asked = []
        tab.on("request", lambda one: asked.append(one.post_data_json["model"]) if "recommend" in one.url else None)
        column = tab.get_by_label("foreign", exact=True)
        for text, title in (("star", "Star Wars (1977)"), ("xxxx", "X" * 120)):
            tab.get_by_label("Add a title").fill(text)
            playwright.expect(tab.locator("#found [aria-selected=true]")).to_have_text(title)
            tab.keyboard.press("Enter")
            playwright.expect(column.get_by_text("another catalogue")).to_contain_text(title)
            playwright.expect(column.locator(".card")).to_have_count(0)
        assert asked == ["one", "one"]
        tab.get_by_role("button", name="Remove all").click()
        ready(tab)
        pick(tab, "script", HOSTILE[1])
        assert asked[2:] == ["one", "foreign"] * 2


def test_the_address_holds_the_state(tab, address):
    tab.goto(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    tab.locator("#gamma").fill("1.5")
    tab.get_by_label("Items").select_option("5")
    tab.wait_for_url(lambda url: "gamma=1.5" in url and "k=5" in url)
    ready(tab)
    tab.locator("button.item").first.click()
    tab.locator(".bars").first.wait_for()
    kept, shown = tab.url, tab.locator("#models").inner_text()
    tab.goto("about:blank")
    tab.goto(kept)
    tab.locator(".bars").first.wait_for()
    ready(tab)
    assert history(tab) == ["Fargo (1996)"]
    assert tab.locator(".bars").count() >= 2
    assert tab.locator("#gamma").input_value() == "1.5"
    assert tab.locator("#models").inner_text().split("\n")[:3] == shown.split("\n")[:3]
    assert tab.locator(".card ol").evaluate_all("lists => lists.map(list => list.children.length)") == [5, 5, 5, 5]


@pytest.mark.parametrize("slow", ["**/v1/model", "**/v1/items?id=*"])
def test_the_address_outlives_whatever_is_done_before_it_is_restored(tab, address, slow):
    held = []
    tab.route(slow, lambda route: held.append(route), times=1)  # noqa: PLW0108 (Playwright takes no built-in)
    kept = f"{address}?h=i%2C4%26&k=5&gamma=1.5"
    tab.goto(kept)
    while not held:
        tab.wait_for_timeout(20)
    for _ in range(2):
        tab.evaluate("for (const name of ['gamma', 'k']) document.getElementById(name).focus()")
        tab.keyboard.press("ArrowDown")
    tab.locator("#gamma").click(force=True)
    tab.wait_for_timeout(300)
    assert tab.url == kept
    held[0].continue_()
    ready(tab)
    assert tab.url == kept
    assert history(tab) == ["Fargo (1996)"]
    tab.locator("#gamma").fill("1")
    tab.wait_for_url("**gamma=1")
    ready(tab)


def test_the_address_holds_every_open_explanation(tab, address):
    def whys() -> list[str]:
        return parse_qs(urlsplit(tab.url).query).get("why", [])

    tab.goto(f"{address}?h=i%2C4%26&gamma=0.55")
    ready(tab)
    columns = [tab.get_by_label(name, exact=True).locator("button.item") for name in ("one", "other")]
    first, second = columns[0].nth(0), columns[0].nth(1)
    ids = [one.get_attribute("data-item") for one in (first, second)]
    same = tab.get_by_label("other", exact=True).locator(f'button.item[data-item="{ids[0]}"]')
    for button in (first, second, same):
        button.click()
    assert whys() == ids
    first.click()
    assert whys() == ids, "open in the other column"
    same.click()
    assert whys() == ids[1:]
    assert "gamma=0.6" in tab.url, "as the slider, in its steps"
    assert tab.locator("#gamma-value").text_content() == tab.locator("#gamma").input_value() == "0.6"
    first.click()
    tab.reload()
    ready(tab)
    playwright.expect(tab.locator("[aria-expanded=true].item")).to_have_count(4)
    playwright.expect(tab.locator(".bars")).to_have_count(8)


def test_arrow_keys_open_a_closed_list(tab, address):
    tab.goto(address)
    ready(tab)
    tab.get_by_label("Add a title").fill("alien")
    for key in ("ArrowDown", "ArrowUp"):
        playwright.expect(tab.locator("#found li")).to_have_count(2)
        tab.keyboard.press("Escape")
        playwright.expect(tab.locator("#found")).to_be_hidden()
        tab.keyboard.press(key)
    playwright.expect(tab.locator("#found [aria-selected=true]")).to_have_count(1)


def test_titles_are_written_in_their_own_direction(tab, address):
    tab.goto(address)
    ready(tab)
    tab.get_by_label("Add a title").fill("عربى")
    option = tab.locator("#found li")
    playwright.expect(option).to_have_text(["عربى"])
    tab.keyboard.press("Enter")
    ready(tab)
    tab.locator("button.item").first.click()
    places = (tab.locator("#history span"), tab.locator(".bars th", has_text="عربى"))
    assert [place.first.evaluate("one => getComputedStyle(one).direction") for place in places] == ["rtl"] * 2
    assert tab.locator(".title:not([dir=auto])").count() == 0


def test_what_is_wanted_no_more_is_not_waited_for(tab, address):
    tab.goto(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    held, ended, hold = [], [], True
    tab.on("requestfailed", lambda request: ended.append((request.url.rsplit("/", 1)[1], request.failure)))
    for path in ("explain", "recommend"):
        tab.route(f"**/v1/{path}", lambda route: held.append(route) if hold else route.fallback())
    tab.locator("button.item").first.click()
    tab.get_by_text("Asking what the history causes").wait_for()
    tab.locator("#gamma").fill("1")
    while len(held) < 3:
        tab.wait_for_timeout(20)
    hold = False
    tab.locator("#gamma").fill("2")
    tab.locator(".bars").first.wait_for()
    ready(tab)
    assert sorted(ended) == [("explain", "net::ERR_ABORTED")] + [("recommend", "net::ERR_ABORTED")] * 2
    assert "Not " not in tab.locator("#models").inner_text()


def test_titles_are_text(tab, address):
    tab.goto(address)
    ready(tab)
    pick(tab, "onerror", HOSTILE[0])
    pick(tab, "script", HOSTILE[1])
    tab.locator("button.item").first.click()
    tab.locator(".bars").first.wait_for()
    assert history(tab) == HOSTILE[:2]
    assert tab.title() == "cftrec: what a history causes"
    assert tab.locator("main img, main script").count() == 0
    assert set(tab.locator(".title").all_text_contents()) <= set(TITLES)


def test_a_token_may_be_any_text(tab, runs):
    tab.add_init_script("sessionStorage.setItem('token', 'Schlüssel 🔑')")  # as the page keeps one
    with served(make_app(runs, token="Schlüssel 🔑")) as address:
        tab.goto(address)
        ready(tab)


def test_everything_has_a_name(tab, address):
    """By the browser's own accessibility tree; and no two elements share an id."""
    tab.goto(address)
    ready(tab)
    pick(tab, "fargo", "Fargo (1996)")
    nodes = tab.context.new_cdp_session(tab).send("Accessibility.getFullAXTree")["nodes"]
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
    ids = tab.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(set(ids)) == len(ids)


def test_the_page_is_small_and_fetches_nothing_from_elsewhere():
    folder = Path(make_app.__code__.co_filename).parent / "page"
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir()]
    assert sum(len(text.encode()) for text in texts) < 150_000
    for text in texts:
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text
