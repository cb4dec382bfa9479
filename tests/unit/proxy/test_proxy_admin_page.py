"""What the admin page shows, and what it remembers of the last ten minutes."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from s3pool.proxy.admin import AdminPage
from s3pool.proxy.metrics import BOUNDS, LATENCY_BUCKETS, SAMPLES, PoolHistory, quantile, sums_of

HOSTILE = "\"><script>alert(1)</script><b x='$title ${live} & \ud800"
NODE = "http://node:1"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(source.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Return the attributes of elements that have those."""
        found = [attrs for name, attrs in self.elements if name == tag]
        return [attrs for attrs in found if all(attrs.get(name) == value for name, value in wanted.items())]

    @property
    def words(self) -> str:
        """Return the text as a reader sees it."""
        return " ".join(" ".join(self.text).split())


def node(name: str = NODE, **more: object) -> dict[str, Any]:
    """Return the record of a node."""
    numbers = dict.fromkeys(("tier", "in_flight", "requests", "failures", "answers", "bytes_sent", "bytes_received"), 0)
    words = {"endpoint": name, "health": "up", "drained": False, "zone": "", "last_error": ""}
    return {**numbers, **words, "latency_ms": 0.0, "answer_seconds": 0.0, **more}


def record(*nodes: dict[str, Any], counts: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """Return the state of a proxy; ``counts`` are its requests by status."""
    by_first_byte = dict.fromkeys(BOUNDS, 0) | more.pop("by_first_byte", {})
    requests = {"by_op": {"GetObject": 7}, "by_status": counts or {}, "by_first_byte": by_first_byte}
    memory = {"used": 0, "size": 1 << 20}
    rest = {"version": "1", "uptime_s": 5.0, "auth": "verify", "connections": 2, "replay_memory": memory}
    return {**rest, "draining": False, "requests": requests, "endpoints": [*nodes] or [node()], **more}


def shown(state: dict[str, Any], history: PoolHistory | None = None, **more: Any) -> Page:
    """Return the page of a state."""
    return Page(AdminPage(LATENCY_BUCKETS).render(state, history or PoolHistory(), **more))


class Steps:
    """A history with a clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.history = PoolHistory(lambda: self.now)

    def add(self, state: dict[str, Any], seconds: float = 10.0) -> None:
        """Let the time pass, and look at a state."""
        self.now += seconds
        self.history.tick(lambda: state)

    def values(self, name: str = NODE) -> list[float | None]:
        """Return the requests of each step."""
        return [value for _, value in self.history.points(name, lambda grown, _: grown[0])]


@pytest.mark.parametrize("member", ["endpoint", "zone", "last_error"])
def test_hostile_name_stays_text(member: str) -> None:
    """No name closes an attribute, opens an element, or is taken for a place of the template."""
    page, plain = shown(record(node(**{member: HOSTILE})), alert=HOSTILE), shown(record())

    assert len(plain.all("script")) == len(page.all("script")) == 1
    assert [] == page.all("b", x="") == page.all("b", x="'$title")
    assert HOSTILE.replace("\ud800", "?") in " ".join(page.text)
    assert page.elements[0] == ("html", {"lang": "en"})


def test_states_are_words_and_not_only_colours() -> None:
    """Each has its mark and its button, which names the node for those who hear the page."""
    healths = ("up", "avoided", "down", "draining", "drained")
    page = shown(record(*(node(f"http://n{word}", health=word, drained=word.startswith("drain")) for word in healths)))

    for word, mark in zip(healths, "\u25cf\u25b2\u2715\u25bd\u25a0", strict=True):
        assert f"{mark} {word}" in page.words
    buttons = page.all("button", name="endpoint")
    assert ["/drain"] * 3 + ["/undrain"] * 2 == [button["formaction"] for button in buttons]
    assert ["Drain http://nup", "Undrain http://ndrained"] == [buttons[0]["aria-label"], buttons[4]["aria-label"]]
    assert "1 of 5 nodes up" in page.words


def test_page_can_be_read_by_everybody() -> None:
    """A language, headers with a scope, graphs with words, fields with labels, cells that say what they are."""
    page = shown(record(), has_token=True)

    assert [{"lang": "en"}] == page.all("html")
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert all(graph.get("role") == "img" and graph.get("aria-label") for graph in page.all("svg"))
    assert all(cell.get("data-label") for cell in page.all("td", role="cell"))
    labels = [number for number, (tag, _) in enumerate(page.elements) if tag == "label"]
    assert [("input", "password")] == [
        (page.elements[number + 1][0], page.elements[number + 1][1]["type"]) for number in labels
    ]


def test_nothing_comes_from_elsewhere() -> None:
    """The policy allows this style and this script, and neither has a stranger's address or a value in it."""
    page, policy = shown(record()), AdminPage(LATENCY_BUCKETS).policy

    assert {"'none'", "'self'"} == {word.rstrip(";") for word in policy.split() if "'" in word and "sha256" not in word}
    assert 2 == policy.count("'sha256-")
    assert not [attrs for _, attrs in page.elements if "src" in attrs or "style" in attrs or "onclick" in attrs]
    assert [] == page.all("link") == page.all("img")


@pytest.mark.parametrize(
    ("more", "words", "is_open"),
    [
        ({"is_locked": True}, "Changes need --admin-token-file", False),
        ({"alert": "no such endpoint"}, "no such endpoint", True),
        ({}, "", True),
    ],
)
def test_buttons_are_there_for_those_who_may(more: dict[str, Any], words: str, is_open: bool) -> None:
    """Where nobody may change anything the page says why."""
    page = shown(record(), **more)

    assert is_open == ("disabled" not in page.all("button", name="endpoint")[0])
    assert words in page.words
    assert bool(words) == bool([each for each in page.all("p", role="alert") if "hidden" not in each])


def test_figures_of_all_processes_are_words() -> None:
    """Nobody has to read JSON to know how much fails."""
    state = record(counts={"2xx": 950, "4xx": 30, "5xx": 20}, processes=3, draining=True)

    words = shown(state).words

    assert "3 processes" in words
    assert "1000 requests since the start \u00b7 3.0 % refused (4xx) \u00b7 2.0 % failed (5xx)" in words
    assert "This proxy is draining" in words
    assert "{" not in words.partition('"use strict"')[0].rpartition("}")[2]


def test_history_takes_a_sample_every_ten_seconds() -> None:
    """However often it is asked, and it forgets what is older than ten minutes."""
    steps = Steps()
    for number in range(4 * SAMPLES):
        steps.add(record(node(requests=number)), seconds=5.0)

    assert [2.0] * SAMPLES == steps.values()
    ages = [age for age, _ in steps.history.points(NODE, lambda grown, _: grown[0])]
    assert (595.0, 5.0) == (ages[0], ages[-1])


def test_restarted_process_leaves_a_gap() -> None:
    """Sums that fall are no negative rate; a node that is new has none either, and one that left is forgotten."""
    steps = Steps()
    for requests in (5, 9, 2, 3):
        steps.add(record(node(requests=requests)))
    steps.add(record(node("http://new:1", requests=50)))
    steps.add(record(node("http://new:1", requests=53)))

    assert ([4, None, 1], [None, 3]) == (steps.values(), steps.values("http://new:1"))


def test_rates_errors_and_latency_of_the_last_step_are_shown() -> None:
    """Of the whole pool and of each node; the graph tells them to those who do not see it."""
    steps = Steps()
    steps.add(record(node()))
    last = node(requests=40, failures=10, answers=20, answer_seconds=5.0)
    steps.add(record(last, counts={"2xx": 90, "5xx": 10}, by_first_byte={"0.1": 50, "0.25": 50}))

    page = shown(record(last), steps.history)

    for words in ("Requests/s 10.0", "Time to the first byte 100 ms", "Errors 10.0 %", "at most 235 ms", "250 ms"):
        assert words in page.words, page.words
    assert "10 (25.0 %)" in page.words
    labels = [graph["aria-label"] for graph in page.all("svg")]
    assert "Requests/s over the last 10 minutes: 10.0 now, 10.0 at most" in labels
    assert "requests/s: 4.0 at most" in labels
    steps.now += 60  # a proxy that was stopped, and has no new sample yet
    assert "Requests/s \u2013" in shown(record(last), steps.history).words


def test_graph_is_drawn_from_left_to_right_with_gaps() -> None:
    """The oldest step is at the left edge, the highest value at the top, and no line bridges what nobody knows."""
    steps = Steps()
    for requests in (0, 10, 30, 5, 6, *[6] * (SAMPLES - 4)):
        steps.add(record(node(requests=requests)))

    path = str(shown(record(node()), steps.history).all("path", **{"class": "first"})[-1]["d"])

    assert 2 == path.count("M")
    assert path.startswith("M5.0 30.0L5.0 30.0L10.0 3.0M")
    assert path.endswith("L300.0 57.0")


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [([], 0.5, None), ([0, 0, 0], 0.5, None), ([4, 0, 0], 0.5, 0.5), ([2, 2, 0], 0.75, 1.5), ([0, 0, 3], 0.5, 2.0)],
)
def test_quantile_is_what_prometheus_computes(counts: list[float], share: float, expected: float | None) -> None:
    """Between two bounds by proportion; beyond the last bound it is that one."""
    assert expected == quantile(counts, (1.0, 2.0), share)


def test_sums_are_of_all_processes() -> None:
    """What the page draws is what /stats adds up."""
    state = record(node(requests=3), counts={"2xx": 2, "5xx": 1, "none": 1}, by_first_byte={"+Inf": 2})

    assert {"": (4, 1, *[0] * len(LATENCY_BUCKETS), 2), NODE: (3, 0, 0, 0.0)} == sums_of(state)
