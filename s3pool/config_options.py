"""The options: their names on every surface, their defaults, and how their texts are read.

A parser raises ValueError with the problem alone; ``Option.read`` puts in front where the
value came from. No parser repeats a secret in its message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Generic, TypeVar

from s3pool.errors import ConfigError, UsageError
from s3pool.model import Endpoint
from s3pool.record import dataclass
from s3pool.units import parse_duration, parse_rate

T_co = TypeVar("T_co", covariant=True)

STRATEGIES = ("round_robin", "least_connections", "power_of_two")
ADDRESSING = ("path", "virtual")
LOG_LEVELS = ("debug", "info", "warning", "error")
STICKY = ("", "key")
NO_STICKY = ("", "none", "false", "off")
TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
UNLIMITED_WORDS = ("none", "off", "unlimited")
MAX_ENDPOINTS = 1024  # a slip in a range must not build a pool of millions
MAX_WORKERS = 1024
MAX_RETRIES = 1000
MAX_CONNECTIONS = 65536
MAX_TIMEOUT_S = 86400.0
RANGE = r"\{([0-9]{1,9})\.\.\.([0-9]{1,9})\}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A raw value and where it came from, as messages and ``s3pool config`` name it."""

    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class Option(Generic[T_co]):
    """One option. ``key`` is its place in the YAML file, sections joined by dots."""

    name: str
    parse: Callable[[object], T_co]
    default: T_co
    key: str
    env: tuple[str, ...] = ()
    flag: str = ""  # its key among the flags, when it has one
    switch: bool | None = None  # a flag without a value means this
    secret: bool = False

    @property
    def flag_text(self) -> str:
        """Give the flag as the user writes it."""
        return "--" + self.flag.replace("_", "-")

    def read(self, setting: Setting) -> T_co:
        """Give the value of a setting.

        Raises:
            ConfigError: it cannot be read; the message names the place.
        """
        try:
            return self.parse(setting.value)
        except (ValueError, ConfigError, UsageError) as exc:
            raise ConfigError(f"{setting.origin}: {exc}") from exc


def parse_text(value: object) -> str:
    """Read plain text; a YAML number or truth value in its place is refused, it lost its form."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {type_name(value)}; put it in quotes")
    if not value:
        raise ValueError("must not be empty")
    if any(char in value for char in "\r\n\0"):
        raise ValueError("must be one line")
    return value


def parse_signed_text(value: object) -> str:
    """Read text that goes into a signature; a path may hold other bytes, this may not."""
    text = parse_text(value)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must be UTF-8")
    return text


def parse_region(value: object) -> str:
    """Read a region's name, which every request sends in clear; OpenStack writes ``RegionOne``."""
    text = parse_text(value)
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("must be letters, digits, dots, dashes and underscores, such as us-east-1")
    return text


def parse_bool(value: object) -> bool:
    """Read a truth value or its word."""
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
    """Give a reader of whole numbers from low to high."""

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


def parse_bwlimit(value: object) -> int:
    """Read a rate in bytes a second; ``none`` is 0."""
    text = _number_text(value).strip()
    return 0 if text.lower() in UNLIMITED_WORDS else parse_rate(text)


def parse_choice(choices: Sequence[str]) -> Callable[[object], str]:
    """Give a reader of one of a few words, in any case."""

    def read(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in choices:
            raise ValueError(f"{value!r} is unknown; choose one of {', '.join(choices)}")
        return word

    return read


def parse_sticky(value: object) -> str:
    """Read ``key`` or nothing."""
    word = str(value).strip().lower()
    return "" if word in NO_STICKY else parse_choice(STICKY[1:])(value)


def parse_endpoints(value: object) -> tuple[Endpoint, ...]:
    """Read a list of URLs or a comma-separated text; ranges expand, repetitions drop out.

    Raises:
        ValueError: it is neither, it names none, or too many.
        ConfigError: one of them is not an endpoint.
    """
    found: dict[Endpoint, None] = {}
    for entry in _iter_entries(value):
        for url in expand_ranges(entry):
            found[_parse_endpoint(url)] = None
            if len(found) > MAX_ENDPOINTS:
                raise ValueError(f"more than {MAX_ENDPOINTS} endpoints")
    if not found:
        raise ValueError("names no endpoint; write http://host:port,...")
    return tuple(found)


def expand_ranges(url: str) -> list[str]:
    """Give the URLs that ``http://node{1...4}:{9000...9001}`` stands for; the last range runs fastest.

    A bound with a leading zero sets the width of all numbers: ``{01...12}``.

    Raises:
        ValueError: a range runs backwards or is too long.
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
    return [_interleave(literals, numbers) for numbers in product(*ranges)]


def _interleave(literals: Sequence[str], numbers: Sequence[str]) -> str:
    return "".join(literal + number for literal, number in zip(literals, (*numbers, ""), strict=True))


def _range_texts(low: str, high: str) -> list[str]:
    first, last = int(low), int(high)
    if last < first or last - first >= MAX_ENDPOINTS:
        raise ValueError(f"the range {{{low}...{high}}} runs backwards or is too long")
    padded = any(len(bound) > 1 and bound.startswith("0") for bound in (low, high))
    width = max(len(low), len(high)) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _iter_entries(value: object) -> list[str]:
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"must be a list of URLs, not {type_name(value)}")
    lines = [value] if isinstance(value, str) else value
    entries = []
    for line in lines:
        if not isinstance(line, str):
            raise ValueError(f"must be a list of URLs, but holds {type_name(line)}")
        entries += [entry.strip() for entry in line.split(",") if entry.strip()]
    return entries


def _parse_endpoint(url: str) -> Endpoint:
    # Without the text: what stands before an @ is usually a password.
    if "@" in url:
        raise ValueError("an endpoint holds no user or password; set access_key and secret_key instead")
    # urlsplit would silently drop tabs and newlines.
    if any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError(f"bad endpoint {url!r}: blanks and control characters cannot stand there")
    if "{" in url or "}" in url:
        raise ValueError(f"bad endpoint {url!r}: write a range as {{1...4}}")
    return Endpoint.parse(url)


def _number_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number, not {type_name(value)}")
    return value if isinstance(value, str) else f"{value:.15g}" if isinstance(value, float) else str(value)


def type_name(value: object) -> str:
    """Give a YAML type's name for messages."""
    if value is None:
        return "nothing"
    names = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "a map"}
    return names.get(type(value), f"a {type(value).__name__}")


NO_ENDPOINTS: tuple[Endpoint, ...] = ()

ENDPOINTS = Option(
    "endpoints",
    parse_endpoints,
    NO_ENDPOINTS,
    "endpoints",
    env=("S3_POOL", "S3POOL_ENDPOINTS", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    flag="endpoints",
)
ACCESS_KEY = Option(
    "access_key", parse_signed_text, "", "access_key", env=("AWS_ACCESS_KEY_ID", "S3_KEY"), flag="access_key"
)
SECRET_KEY = Option(
    "secret_key", parse_signed_text, "", "secret_key", env=("AWS_SECRET_ACCESS_KEY", "S3_SECRET"), secret=True
)
SESSION_TOKEN = Option("session_token", parse_signed_text, "", "session_token", env=("AWS_SESSION_TOKEN",), secret=True)
SIGN = Option("sign", parse_bool, True, "sign", flag="no_sign_request", switch=False)
REGION = Option("region", parse_region, "us-east-1", "region", env=("AWS_REGION", "AWS_DEFAULT_REGION"), flag="region")
BUCKET = Option("bucket", parse_text, "", "bucket", env=("S3_BUCKET",))
INSECURE = Option("insecure", parse_bool, False, "insecure", env=("S3POOL_INSECURE_TLS",), flag="insecure", switch=True)
CA_BUNDLE = Option("ca_bundle", parse_text, "", "ca_bundle", env=("AWS_CA_BUNDLE",), flag="ca_bundle")
CLIENT_CERT = Option("client_cert", parse_text, "", "client_cert", flag="client_cert")
CLIENT_KEY = Option("client_key", parse_text, "", "client_key", flag="client_key")
ADDRESSING_STYLE = Option("addressing", parse_choice(ADDRESSING), "path", "addressing", flag="addressing")
STRATEGY = Option(
    "strategy",
    parse_choice(STRATEGIES),
    "round_robin",
    "load_balancer.strategy",
    env=("LB_STRATEGY",),
    flag="strategy",
)
CONNECT_TIMEOUT = Option(
    "connect_timeout",
    parse_seconds,
    3.0,
    "load_balancer.connect_timeout",
    env=("POOL_CONNECT_TIMEOUT",),
    flag="connect_timeout",
)
READ_TIMEOUT = Option(
    "read_timeout",
    parse_seconds,
    60.0,
    "load_balancer.request_timeout",
    env=("LB_REQUEST_TIMEOUT",),
    flag="read_timeout",
)
RETRIES = Option(
    "retries",
    parse_count(0, MAX_RETRIES),
    5,
    "load_balancer.max_retries",
    env=("LB_MAX_RETRIES",),
    flag="retries",
)
HEALTH_INTERVAL = Option(
    "health_interval",
    parse_seconds,
    5.0,
    "load_balancer.health_check_interval",
    env=("LB_HEALTH_CHECK_INTERVAL",),
    flag="health_interval",
)
STICKY_BY = Option("sticky", parse_sticky, "", "load_balancer.sticky")
POOL_SIZE = Option(
    "max_connections",
    parse_count(1, MAX_CONNECTIONS),
    100,
    "pool.max_connections",
    env=("POOL_MAX_CONNECTIONS",),
    flag="max_connections",
)
MAX_IDLE_TIME = Option("max_idle_time", parse_seconds, 15.0, "pool.max_idle_time", env=("POOL_MAX_IDLE_TIME",))
WORKERS = Option("workers", parse_workers, 0, "workers", env=("S3POOL_WORKERS",), flag="workers")
BWLIMIT = Option("bwlimit", parse_bwlimit, 0, "bwlimit", env=("S3POOL_BWLIMIT",), flag="bwlimit")
LOG_LEVEL = Option(
    "log_level", parse_choice(LOG_LEVELS), "warning", "log_level", env=("S3POOL_LOG_LEVEL",), flag="log_level"
)

OPTIONS: tuple[Option[object], ...] = (
    ENDPOINTS,
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    SIGN,
    REGION,
    BUCKET,
    INSECURE,
    CA_BUNDLE,
    CLIENT_CERT,
    CLIENT_KEY,
    ADDRESSING_STYLE,
    STRATEGY,
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    RETRIES,
    HEALTH_INTERVAL,
    STICKY_BY,
    POOL_SIZE,
    MAX_IDLE_TIME,
    WORKERS,
    BWLIMIT,
    LOG_LEVEL,
)
