"""How the value of each option is read, from a flag's or variable's text or from YAML.

A parser raises ValueError with the problem alone; ``Option.read`` puts the value's origin in
front. No parser repeats a secret in its message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import product
from operator import add
from typing import Any
from urllib.parse import urlsplit

from s3pool.endpoint import Endpoint
from s3pool.errors import UsageError
from s3pool.record import dataclass, field, replace
from s3pool.units import parse_duration, parse_rate

NO_STICKY = ("", "none", "false", "off")
STICKY_BY_KEY = "key"
TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
UNLIMITED_WORDS = ("none", "off", "unlimited")
MAX_ENDPOINTS = 1024  # a slip in a range must not build a pool of millions
MAX_WEIGHT = 100
DNS_PORT = 53
IPV6 = 6
MAX_WORKERS = 1024
MAX_TPS = 1_000_000
MAX_TIMEOUT_S = 86400.0
RANGE = r"\{([0-9]{1,9})\.\.\.([0-9]{1,9})\}"


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where keys come from that end after a while, or that may change.

    ``settings`` are words of the source itself, by kind. ``base`` is where the keys come from that a role is
    assumed with.
    """

    kind: str
    origin: str
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    base: KeySource | None = None


def parse_public_url(value: object) -> Endpoint:
    """Read the URL of one endpoint. Raises ValueError, ConfigError: it is not one."""
    found = parse_endpoints(parse_text(value))
    if len(found) > 1 or found[0].discovery:
        raise ValueError("must be one http or https URL")
    return found[0]


def parse_servers(value: object) -> tuple[str, ...]:
    """Read addresses of name servers, each with a port if it is not 53."""
    servers = []
    for word in parse_text(value).split(","):
        try:
            parts = urlsplit(f"//{word.strip()}")
            host, port = ip_address(parts.hostname or ""), parts.port or DNS_PORT
        except ValueError:
            raise ValueError(f"{word.strip()!r} is not the address of a name server, such as 10.0.0.10:53") from None
        servers.append(f"[{host}]:{port}" if host.version == IPV6 else f"{host}:{port}")
    return tuple(servers)


def parse_text(value: object) -> str:
    """Read one line of text; refuse a YAML number or truth value, whose spelling is lost."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {type_name(value)}; put it in quotes")
    if not value:
        raise ValueError("must not be empty")
    if any(char in value for char in "\r\n\0"):
        raise ValueError("must be one line")
    return value


def parse_signed_text(value: object) -> str:
    """Read text that goes into a signature: UTF-8 only, unlike a path."""
    text = parse_text(value)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must be UTF-8")
    return text


def parse_region(value: object) -> str:
    """Read the name of a region; OpenStack writes ``RegionOne``."""
    text = parse_text(value)
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("must be letters, digits, dots, dashes and underscores, such as us-east-1")
    return text


def parse_bool(value: object) -> bool:
    """Read true or false, or one of the words for them."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def parse_seconds(value: object) -> float:
    """Read a positive number of seconds, or a duration such as ``500ms``."""
    try:
        seconds = parse_duration(_number_text(value))
    except UsageError:
        raise ValueError(f"{value!r} is not a number of seconds") from None
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise ValueError(f"{value!r} must be more than 0 and at most {MAX_TIMEOUT_S:.0f} seconds")
    return seconds


def parse_count(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from low to high."""

    def read(value: object) -> int:
        text = _number_text(value).strip()
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError(f"{value!r} is not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"{value!r} is not between {low} and {high}")
        return int(text)

    return read


def parse_workers(value: object) -> int:
    """Read a number of workers; ``auto`` is 0."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return 0
    return parse_count(0, MAX_WORKERS)(value)


def parse_bwlimit(value: object) -> int | tuple[int, int]:
    """Read a rate in bytes a second, or one for each way; ``none`` is 0, and so is nothing on one side."""
    up, colon, down = _number_text(value).strip().partition(":")
    if not colon:
        return _rate(up)
    rates = _rate(up or "none"), _rate(down or "none")
    return rates if any(rates) else 0


def _rate(text: str) -> int:
    return 0 if text.strip().lower() in UNLIMITED_WORDS else parse_rate(text)


def parse_choice(choices: Sequence[str]) -> Callable[[object], str]:
    """Return a parser of one of a few words, upper or lower case."""

    def read(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in choices:
            raise ValueError(f"{value!r} is unknown; choose one of {', '.join(choices)}")
        return word

    return read


def parse_sticky(value: object) -> str:
    """Read ``key`` or nothing."""
    word = str(value).strip().lower()
    return "" if word in NO_STICKY else parse_choice((STICKY_BY_KEY,))(value)


def parse_endpoints(value: object) -> tuple[Endpoint, ...]:
    """Read a list of URLs or a comma-separated text; ranges expand, duplicates are dropped.

    An item is ``http://host:port``, with ``dns+`` or ``srv+`` before it and
    ``;zone=NAME;weight=N`` behind it, or a map of url, zone and weight.
    """
    found: dict[Endpoint, None] = {}
    for entry, settings in _iter_entries(value):
        for url in expand_ranges(entry):
            found[_parse_endpoint(url, settings)] = None
            if len(found) > MAX_ENDPOINTS:
                raise ValueError(f"more than {MAX_ENDPOINTS} endpoints")
    if not found:
        raise ValueError("names no endpoint; write http://host:port,...")
    return tuple(found)


def parse_zone(value: object) -> str:
    """Read the name of a zone, such as ``eu-1a``."""
    text = _number_text(value) if isinstance(value, int) else parse_text(value)
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", text):
        raise ValueError(f"bad zone {text!r}: letters, digits, dots, dashes and underscores can stand there")
    return text


def expand_ranges(url: str) -> list[str]:
    """Expand ``http://node{1...4}:{9000...9001}`` into URLs; the last range runs fastest.

    A bound with a leading zero sets the width of every number: ``{01...12}``.
    """
    if "{" not in url:
        return [url]
    pieces = re.split(RANGE, url)
    literals, bounds = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    ranges = [_range_texts(low, high) for low, high in bounds]
    total = 1
    for texts in ranges:
        total *= len(texts)
    if total > MAX_ENDPOINTS:
        raise ValueError(f"{url!r} stands for more than {MAX_ENDPOINTS} endpoints")
    return ["".join(map(add, literals, (*numbers, ""))) for numbers in product(*ranges)]


def _range_texts(low: str, high: str) -> list[str]:
    first, last = int(low), int(high)
    if last < first or last - first >= MAX_ENDPOINTS:
        raise ValueError(f"the range {{{low}...{high}}} runs backwards or is too long")
    padded = any(len(bound) > 1 and bound.startswith("0") for bound in (low, high))
    width = max(len(low), len(high)) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _iter_entries(value: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the URLs of a list of endpoints, each with its settings by name."""
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"must be a list of URLs, not {type_name(value)}")
    for item in [value] if isinstance(value, str) else value:
        settings = {str(name): setting for name, setting in item.items()} if isinstance(item, dict) else {}
        line = settings.pop("url", None) if isinstance(item, dict) else item
        if not isinstance(line, str):
            raise ValueError(f"must be a list of URLs, but holds {type_name(line)}{' as url' * isinstance(item, dict)}")
        for entry in line.split(","):
            url, *words = [word.strip() for word in entry.split(";")]
            if url:
                pairs = [*settings.items(), *(_parse_word(word, url) for word in words)]
                if len(dict(pairs)) < len(pairs):
                    raise ValueError(f"bad endpoint {url!r}: zone and weight can stand there once each")
                yield url, dict(pairs)


def _parse_word(word: str, url: str) -> tuple[str, str]:
    name, found, text = word.partition("=")
    if not found:
        raise ValueError(f"bad endpoint {url!r}: write zone=NAME or weight=N behind the semicolon")
    return name, text


ENDPOINT_SETTINGS: Mapping[str, Callable[[object], Any]] = {"zone": parse_zone, "weight": parse_count(1, MAX_WEIGHT)}


def _parse_endpoint(url: str, settings: Mapping[str, object]) -> Endpoint:
    # The message must not repeat the URL: before the @ there is usually a password.
    if "@" in url:
        raise ValueError("an endpoint holds no user or password; set access_key and secret_key instead")
    # urlsplit would silently drop tabs and newlines.
    if any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError(f"bad endpoint {url!r}: blanks and control characters cannot stand there")
    if "{" in url or "}" in url:
        raise ValueError(f"bad endpoint {url!r}: write a range as {{1...4}}")
    values = {}
    for name, setting in settings.items():
        if name not in ENDPOINT_SETTINGS:
            raise ValueError(f"bad endpoint {url!r}: it has a zone and a weight, and no {name!r}")
        try:
            values[name] = ENDPOINT_SETTINGS[name](setting)
        except ValueError as exc:
            raise ValueError(f"bad endpoint {url!r}: {name}: {exc}") from exc
    return replace(Endpoint.parse(url), **values)


def _number_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number, not {type_name(value)}")
    return value if isinstance(value, str) else f"{value:.15g}" if isinstance(value, float) else str(value)


def type_name(value: object) -> str:
    """Return the name of a YAML type, for messages."""
    if value is None:
        return "nothing"
    names = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "a map"}
    return names.get(type(value), f"a {type(value).__name__}")
