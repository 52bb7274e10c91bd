"""The dashboard in a real browser: what a person sees and does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from tests.browser.browser_support import SomeCluster, SomeHost, chromium
from tests.support import until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>\'"&'
PAGES = ["overview", "hosts", "actors", "schedules", "log"]
TOKEN = "a-token-of-this-test"  # noqa: S105 - of these tests alone


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def cluster() -> Iterator[SomeCluster]:
    with SomeCluster() as cluster:
        cluster["a"].do(load=True)
        cluster["a"].do(send=["account", "ann", "hello"], times=7)
        cluster["a"].do(send=["account", "ann", "raise"], times=2)
        cluster["b"].do(send=["account", HOSTILE, "hello"], times=3)
        cluster["b"].do(send=["account", HOSTILE, "raise"], times=1)
        cluster["c"].do(schedule=["account", HOSTILE, HOSTILE])
        yield cluster


@pytest.fixture
def page(browser: Chrome, cluster: SomeCluster) -> Iterator[Page]:
    page = Page(browser)
    page.size(1400, 950)
    page.open(cluster["a"])
    yield page
    assert page.complaints() == []


class Page:
    """The dashboard, and what can be done with it."""

    opened: ClassVar[list[Page]] = []
    """The one that is looked at, if any."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser
        self.opened[:] = [self]

    def open(self, host: SomeHost, where: str = "overview") -> None:
        self.browser.get("about:blank")
        self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        self.browser.get(f"{host.url}#/{where}")

    def go(self, where: str) -> None:
        self.js("location.hash = arguments[0]", f"#/{where}")

    def js(self, code: str, *args: Any) -> Any:
        return self.browser.execute_script(code, *args)

    def all(self, css: str) -> list[WebElement]:
        return self.browser.find_elements("css selector", css)

    def text(self, css: str) -> str:
        """The text of the first such element, empty if there is none."""
        return str(self.js("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    def texts(self, css: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", css))

    def number(self, css: str) -> float:
        found = re.match(r"[\d,.]+", self.text(css))
        return float(found[0].replace(",", "")) if found else -1.0

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def size(self, width: int, height: int) -> None:
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """What the browser had to say: errors of scripts, files that are missing, policies that were violated."""
        log = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [line["message"] for line in log if line["level"] in ("SEVERE", "WARNING")]


def wait(condition: Callable[[], object]) -> None:
    try:
        until(condition, 25)
    except AssertionError as error:
        shown = "\n".join(f"{page.js('return location.href')}:\n{page.text('main')}" for page in Page.opened)
        raise AssertionError(f"{error}; what was shown:\n{shown[:5000]}") from error


def moves(page: Page, css: str) -> None:
    """Wait until a picture changes."""
    picture = "return document.querySelector(arguments[0]).toDataURL()"
    before = page.js(picture, css)
    wait(lambda: page.js(picture, css) != before)


def is_red(page: Page, css: str, what: str = "color") -> bool:
    colour = page.js("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", css, what)
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
    return red > 1.5 * green and red > 1.2 * blue


def test_figures_and_charts_move_under_load(page: Page, cluster: SomeCluster) -> None:
    wait(lambda: page.number("#tile-messages") > 0)
    wait(lambda: page.number("#tile-requests") > 0)
    assert page.text("#health") == "3 of 3 hosts answer"
    wait(lambda: page.number("#tile-actors") >= 50)
    titles = page.texts(".chart h2")
    assert titles == [
        "Messages per second", "Requests per second", "Activations per second", "Actors", "Dead letters per second",
        "Handling time",
    ]  # fmt: skip
    legend = page.texts("#chart-messages .legend li")
    assert [text.split()[0] for text in legend] == ["a", "b", "c"]
    assert len(page.all(".chart canvas")) == 6
    fresh = itertools.count()

    def figures(chart: str) -> list[float]:
        """What the chart says of each of its lines now."""
        cluster["a"].do(send=["account", f"fresh-{next(fresh)}", "hello"], times=1)  # for activations
        return [float(text) for text in re.findall(r"[\d.]+", " ".join(page.texts(f"#chart-{chart} .legend b")))]

    for chart in ("messages", "requests", "activations", "actors", "handling"):
        wait(lambda chart=chart: max(figures(chart), default=0) > 0)  # type: ignore[misc]
        moves(page, f"#chart-{chart} canvas")
    wait(lambda: len(figures("messages")) == 3 and min(figures("messages")) > 0)
    assert re.search(r"\d (ms|µs|s)$", page.text("#tile-p50"))
    assert re.search(r"\d (ms|µs|s)$", page.text("#tile-p99"))


def test_a_pause_stops_everything(page: Page) -> None:
    wait(lambda: page.number("#tile-messages") > 0)
    page.press("p")
    assert page.text("#pause") == "Go on"
    points = "return import('/static/store.js').then((module) => module.store.times.length)"
    later = "return new Promise((done) => setTimeout(done, 1500))"

    def stands_still() -> bool:
        before = page.js(points)
        page.js(later)  # longer than from one look to the next
        return bool(page.js(points) == before)

    wait(stands_still)
    page.press("p")
    assert page.text("#pause") == "Pause"
    before = page.js(points)
    wait(lambda: page.js(points) > before)


def test_the_cards_show_each_host(page: Page) -> None:
    wait(lambda: page.texts("#host-cards .badge") == ["active"] * 3)
    assert [one.get_attribute("data-host") for one in page.all("#host-cards article")] == ["a", "b", "c"]
    assert all("epoch" in text for text in page.texts("#host-cards .epoch"))


def test_hosts_are_listed_and_opened(page: Page, cluster: SomeCluster) -> None:
    page.go("hosts")
    wait(lambda: page.texts("#hosts-table tbody tr td:first-child") == ["a", "b", "c"])
    wait(lambda: page.texts("#hosts-table .badge") == ["active"] * 3)
    assert cluster["b"].address in page.text("#hosts-table tr[data-host=b]")
    page.all("#hosts-table tr[data-host=b] td:nth-child(3)")[0].click()
    wait(lambda: "connected" in page.text("#host-detail"))
    assert page.text("#host-detail h2") == "b"
    wait(lambda: page.texts("#host-detail .badge") == ["connected", "connected"])
    assert "account" in page.text("#host-detail")


def test_an_actor_is_found_and_shown(page: Page) -> None:
    page.go("actors")
    wait(lambda: len(page.all("#actors-table tbody tr")) > 50)
    page.all("#actor-prefix")[0].send_keys("ann")
    wait(lambda: page.texts("#actors-table tbody td.id") == ["ann"])
    assert page.text(".found") == "1 actor"
    page.all("#actors-table tbody td")[0].click()
    wait(lambda: page.number("#actor-messages") == 9)
    assert page.text("#actor-id") == "ann"
    assert page.number("#actor-errors") == 2
    assert page.text("#actor-receiver") == "__main__.Account"
    assert page.text("#actor-owner") in ("a", "b", "c")
    assert page.text("#actor-host") == page.text("#actor-owner")
    wait(lambda: page.texts("main .log .detail") == ["ValueError: <b>overdrawn</b>"] * 2)
    page.browser.back()
    wait(lambda: page.texts("#actors-table tbody td.id") == ["ann"])


def test_what_is_not_found_is_said(page: Page) -> None:
    page.go("actors?prefix=nobody-is-called-that")
    wait(lambda: "No active actor matches" in page.text("#actors-table"))
    page.go("actor?type=account&id=nobody")
    wait(lambda: page.text("h1 .badge") == "not active")


def test_hostile_text_does_nothing(page: Page) -> None:
    page.go("actors?prefix=%3Cimg")
    wait(lambda: page.texts("#actors-table tbody td.id") == [HOSTILE])
    page.all("#actors-table tbody td")[0].click()
    wait(lambda: page.text("#actor-id") == HOSTILE)
    wait(lambda: page.number("#actor-messages") == 4)
    wait(lambda: HOSTILE in page.text("main .log"))
    page.go("schedules")
    wait(lambda: f"account/{HOSTILE}" in page.texts("#schedules-table td.id"))
    page.go("log")
    wait(lambda: HOSTILE in page.text("#log") and "<b>overdrawn</b>" in page.text("#log"))
    assert page.js("return window.hacked") is None
    assert page.js("return document.querySelectorAll('main img, main script, main b:not([id]):empty').length") == 0
    attributes = page.js(
        "return [...document.querySelectorAll('*')].flatMap((one) => [...one.attributes]).map((one) => one.name)"
    )
    assert [name for name in attributes if name.startswith("on")] == []


def test_why_a_schedule_is_put_aside_is_shown_as_text(page: Page) -> None:
    """Hosts without a database have no such schedule: one of theirs is made to look like that on its way."""
    page.js(
        """
        const real = window.fetch, error = arguments[0];
        window.fetch = async (target, ...rest) => {
            const answer = await real(target, ...rest);
            if (!String(target).startsWith("cluster/all-schedules")) return answer;
            const data = await answer.json();
            const one = data.schedules[0];
            data.schedules = [{ ...one, attempt: 3, error, host_id: null }, { ...one, error: null }];
            return new Response(JSON.stringify(data), { headers: { "Content-Type": "application/json" } });
        };
        """,
        HOSTILE,
    )
    page.go("schedules")
    wait(lambda: page.texts("#schedules-table td[data-label=Error]") == [HOSTILE, ""])
    assert page.texts("#schedules-table td[data-label=Attempt]") == ["3", ""]
    assert page.texts("#schedules-table td[data-label=Host]") == ["any", "c"]
    assert page.js("return window.hacked") is None
    assert page.js("return document.querySelectorAll('main img, main script').length") == 0


def test_the_log_is_filtered(page: Page) -> None:
    page.go("log")
    wait(lambda: len(page.all("#log li")) >= 3)
    page.all("#log-words")[0].send_keys("account/ann")
    wait(lambda: len(page.all("#log li")) == 2)
    page.all("#log-kind option[value='dead letter']")[0].click()
    wait(lambda: "Nothing matches" in page.text("main"))


def asked_again(page: Page, path: str) -> None:
    """Wait until the page has asked twice more, so that it has shown an answer to a question of after the call."""
    asked = "return performance.getEntriesByType('resource').filter((one) => one.name.includes(arguments[0])).length"
    before = page.js(asked, path)
    wait(lambda: page.js(asked, path) >= before + 3)


def test_who_reads_or_goes_through_a_list_is_not_disturbed(page: Page, cluster: SomeCluster) -> None:
    rows = "#schedules-table tbody tr"
    focused = "return document.activeElement.dataset.key ?? document.activeElement.tagName"
    for number in range(5):
        made = cluster["a"].do(schedule=["account", f"read-{number}", "x"])
    page.go("schedules")
    wait(lambda: len(page.all(rows)) >= 6)
    page.js("document.querySelector(`[data-key='${arguments[0]}']`).focus()", made)
    page.press("k")
    before = page.js(focused)
    assert before not in (made, "BODY")
    shown = len(page.all(rows))
    cluster["b"].do(schedule=["account", "read-later", "x"])
    wait(lambda: len(page.all(rows)) == shown + 1)
    assert page.js(focused) == before
    page.press("j")
    assert page.js(focused) == made

    page.js(
        "const range = document.createRange();"
        "range.selectNodeContents(document.querySelector('#schedules-table td[data-label=Id]'));"
        "getSelection().removeAllRanges(); getSelection().addRange(range)"
    )
    selected = page.js("return String(getSelection())")
    assert selected
    cluster["b"].do(schedule=["account", "read-last", "x"])
    asked_again(page, "all-schedules")
    assert page.js("return String(getSelection())") == selected
    page.js("getSelection().removeAllRanges()")
    wait(lambda: len(page.all(rows)) == shown + 2)

    page.go("log")
    page.all("#log-words")[0].send_keys("account/ann")
    wait(lambda: len(page.all("#log li")) == 2)
    page.js("document.querySelector('#log').seen = true; document.querySelector('#log a').focus()")
    asked_again(page, "all-errors")
    assert page.js("return document.querySelector('#log').seen"), "what is the same stays"
    assert page.js("return document.activeElement.textContent") == "account/ann"


def test_links_lead_to_actors_whose_type_has_a_slash(page: Page, cluster: SomeCluster) -> None:
    cluster["a"].do(send=["shop/till", "7/b", "raise"], times=1)
    page.go("log")
    link = "return [...document.querySelectorAll('#log a')].find((one) => one.textContent === arguments[0])?.hash"
    wait(lambda: page.js(link, "shop/till/7/b") == "#/actor?type=shop%2Ftill&id=7%2Fb")


@pytest.mark.parametrize("width", [360, 768, 1024])
def test_nothing_is_cut_off_on_a_phone(page: Page, width: int) -> None:
    page.size(width, 800)
    filled = {
        "overview": "#host-cards .badge",
        "hosts": "#hosts-table .badge",
        "actors": "#actors-table tbody td.id",
        "schedules": "#schedules-table tbody td",
        "log": "#log li",
        "actor?type=account&id=ann": "#actor-messages",
        "hosts?host=b": "#host-detail .card",
    }
    assert filled.keys() > set(PAGES)
    for name, what in filled.items():
        page.go(name)
        wait(lambda what=what: page.text(what) not in ("", "\N{EN DASH}"))  # type: ignore[misc]
        assert page.js("return document.documentElement.scrollWidth") <= width, name
        assert page.js("return document.querySelector('.pages a').getBoundingClientRect().height") > 0


def test_everything_can_be_done_by_keyboard(page: Page) -> None:
    from selenium.webdriver import Keys

    wait(lambda: page.number("#tile-messages") > 0)
    for number, name in enumerate(PAGES, 1):
        page.press(str(number))
        wait(lambda name=name: page.js("return location.hash") == f"#/{name}")  # type: ignore[misc]
        assert page.text("[aria-current=page]")[1:].lower() == name
    page.press("/")
    wait(lambda: page.js("return document.activeElement.id") == "actor-prefix")
    page.press("ann")
    wait(lambda: page.texts("#actors-table tbody td.id") == ["ann"])
    page.press(Keys.ARROW_DOWN)
    assert page.js("return document.activeElement.tagName") == "TR"
    page.press(Keys.ENTER)
    wait(lambda: page.text("#actor-id") == "ann")
    page.press(Keys.ESCAPE)
    wait(lambda: page.js("return location.hash") == "#/actors")
    page.press("?")
    wait(lambda: page.js("return document.querySelector('#keys').open"))
    page.press(Keys.ESCAPE)
    wait(lambda: not page.js("return document.querySelector('#keys').open"))
    page.press("1")
    page.js("document.activeElement.blur()")
    page.press(Keys.TAB)
    assert page.js("return document.activeElement.className") == "skip"


def test_dark_and_light(page: Page) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"

    def brightness() -> float:
        return sum(float(part) for part in re.findall(r"[\d.]+", page.js(background))[:3]) / 3

    try:
        page.prefer("light")
        wait(lambda: brightness() > 200)
        page.prefer("dark")
        wait(lambda: brightness() < 50)
        wait(lambda: page.number("#tile-messages") > 0)
        page.press("t")
        wait(lambda: brightness() > 200)
        page.browser.refresh()
        assert brightness() > 200, "the choice is kept"
        page.press("t")
        wait(lambda: brightness() < 50)
        for scheme in ("light", "dark"):
            page.js("document.documentElement.dataset.theme = arguments[0]", scheme)
            assert contrast(page, ".tile dt") > 4.5
            assert contrast(page, ".pages a") > 4.5
    finally:
        page.js("localStorage.clear(); delete document.documentElement.dataset.theme")


def contrast(page: Page, css: str) -> float:
    """The contrast ratio of an element's text with what is behind it, as WCAG 2 defines it."""
    found: float = page.js(
        """
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (colour) => colour.slice(0, 3).map((part) => part / 255)
          .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
          .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
        let element = document.querySelector(arguments[0]);
        const text = light(rgb(getComputedStyle(element).color));
        let back = [0, 0, 0, 0];
        while (element && (back[3] ?? 1) === 0) {
          back = rgb(getComputedStyle(element).backgroundColor);
          element = element.parentElement;
        }
        const [high, low] = [text, light(back)].sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
        """,
        css,
    )
    return found


def test_nothing_is_asked_of_anybody_else(page: Page, cluster: SomeCluster) -> None:
    wait(lambda: page.number("#tile-messages") > 0)
    asked = page.js("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(cluster["a"].url)] == []


# -- clusters of their own ---------------------------------------------------------------------------------------


def test_a_killed_host_turns_red(browser: Chrome) -> None:
    page = Page(browser)
    page.size(1400, 950)
    with SomeCluster() as cluster:
        page.open(cluster["a"])
        wait(lambda: page.texts("#host-cards .badge") == ["active"] * 3)
        cluster["c"].kill()
        wait(lambda: page.texts("#host-cards .badge") == ["active", "active", "no answer"])
        card = "#host-cards article[data-host=c]"
        assert is_red(page, f"{card} .badge")
        assert is_red(page, card, "borderTopColor")
        assert not is_red(page, "#host-cards article[data-host=b]", "borderTopColor")
        assert "host 'c' does not answer" in page.text("#alerts")
        assert page.text("#health") == "2 of 3 hosts answer"
        page.go("hosts")
        wait(lambda: page.texts("#hosts-table .badge") == ["active", "active", "no answer"])
        page.go("actors")
        wait(lambda: "Not complete: host 'c' does not answer" in page.text("main"))
        cluster["b"].do(freeze=True)
        page.go("overview")
        wait(lambda: page.texts("#host-cards .badge") == ["active", "frozen", "no answer"])
        cluster["a"].kill()
        wait(lambda: page.text("#health") == "no answer")
        wait(lambda: "does not answer" in page.text("#alerts"))


def test_leases_are_shown(browser: Chrome, dsn: str) -> None:
    page = Page(browser)
    page.size(1400, 950)
    with SomeCluster("ab", dsn=dsn, lease_duration=6, poll_interval=0.5) as cluster:
        page.open(cluster["a"])
        wait(lambda: page.texts("#host-cards .badge") == ["active", "active"])
        lease = "#host-cards article[data-host=b] [aria-label='What is left of the lease']"
        wait(lambda: re.fullmatch(r"lease [2-6](\.\d)? s", page.text(lease)))
        share = "return Number(document.querySelector(arguments[0]).getAttribute('aria-valuenow'))"
        assert 30 < page.js(share, lease) <= 100
        assert page.all(lease)[0].is_displayed()
        assert re.search(r"epoch \d+", page.text("#host-cards article[data-host=b] .epoch"))


def test_the_token_is_asked_for(browser: Chrome) -> None:
    page = Page(browser)
    page.size(1400, 950)
    with SomeCluster("ab", admin_token=TOKEN) as cluster:
        page.open(cluster["a"])
        wait(lambda: page.js("return document.querySelector('#ask-token').open"))
        page.all("#token")[0].send_keys("wrong\n")
        wait(lambda: page.all("#token-wrong")[0].is_displayed())
        page.all("#token")[0].send_keys(f"{TOKEN}\n")
        wait(lambda: page.texts("#host-cards .badge") == ["active", "active"])
        page.browser.refresh()
        wait(lambda: page.texts("#host-cards .badge") == ["active", "active"])
        page.js("sessionStorage.clear()")


def test_ten_thousand_actors_are_shown_a_page_at_a_time(browser: Chrome) -> None:
    page = Page(browser)
    page.size(1400, 950)
    host = SomeHost(host_id="crowded", idle_timeout=600)
    try:
        host.do(spawn=10_000)
        page.open(host, "actors")
        wait(lambda: page.text(".found") == "10,000 actors")
        assert len(page.all("#actors-table tbody tr")) == 100
        assert page.text("#actors-table tbody td.id") == "many-00000"
        page.press("n")
        wait(lambda: page.text("#actors-table tbody td.id") == "many-00100")
        page.press("b")
        wait(lambda: page.text("#actors-table tbody td.id") == "many-00000")
        page.all("#actor-prefix")[0].send_keys("many-0999")
        wait(lambda: page.texts("#actors-table tbody td.id") == [f"many-0999{digit}" for digit in range(10)])
        assert page.js("return document.querySelectorAll('*').length") < 2000
    finally:
        host.kill()
