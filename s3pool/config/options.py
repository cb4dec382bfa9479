"""The options: each is declared once, with all its names, and gives flag, variable, key and help.

``Config`` is the table of the pool's options and holds their values in effect; the proxy has a table of the same kind.
The command line, the configuration file, ``s3pool config``, the manual and the README read the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, overload

from s3pool.config.values import (
    MAX_TPS,
    MAX_WORKERS,
    STICKY_BY_KEY,
    KeySource,
    parse_bool,
    parse_bwlimit,
    parse_choice,
    parse_count,
    parse_endpoints,
    parse_public_url,
    parse_region,
    parse_seconds,
    parse_servers,
    parse_signed_text,
    parse_sticky,
    parse_text,
    parse_workers,
    parse_zone,
)
from s3pool.endpoint import Credentials, Endpoint, HttpProxy
from s3pool.errors import ConfigError, UsageError

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound="Options")
Row = tuple[str, str, str]

DEFAULT_ORIGIN = "default"
HIDDEN = "********"
UNIT_SUFFIX = "_s"  # of attributes that hold seconds; the option's name goes without it
SECRET_WORDS = ("secret", "token", "password", "key", "client")
ADDRESSING = ("path", "virtual")
STRATEGIES = ("round_robin", "least_connections", "power_of_two", "random", "weighted")  # the balancer's
RESOLVE = ("named", "all")
CHECKSUM_RULES = ("when_supported", "when_required")  # AWS's words
LOG_LEVELS = ("trace", "debug", "info", "warn", "warning", "error")  # trace is debug, and warn is warning
MAX_RETRIES = 1000
MAX_CONNECTIONS = 65536
NO_ENDPOINTS: tuple[Endpoint, ...] = ()

NO_ENDPOINTS_MESSAGE = (
    "no endpoint is set: use --endpoints http://host:port,..., the variable S3_POOL, "
    "or endpoints: in ~/.s3pool/config.yaml"
)
NO_CREDENTIALS_MESSAGE = (
    "no credentials are set: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, access_key: and secret_key: in "
    "~/.s3pool/config.yaml, or ~/.aws/credentials; for public buckets --no-sign-request"
)


class Setting(NamedTuple):
    """A raw value and its origin, as messages and ``s3pool config`` name it."""

    value: object
    origin: str


class Option(Generic[T]):
    """One option, declared as an attribute of an ``Options`` class.

    On the class the attribute is the option itself, on an instance its value in effect. An option with a ``metavar``,
    ``choices`` or a ``switch`` (the value that its flag means) has a flag; one that is ``moved`` had a flag of its
    name. ``zero`` is the word for 0, and ``default_note`` stands for the default in help and manual.
    """

    name = attribute = ""

    def __init__(
        self,
        parse: Callable[[object], T],
        default: T,
        help: str,
        *,
        key: str = "",
        env: tuple[str, ...] = (),
        flag: str = "",
        metavar: str = "",
        choices: tuple[str, ...] = (),
        switch: bool | None = None,
        repeatable: bool = False,
        secret: bool = False,
        zero: str = "0",
        default_note: str = "",
        moved: bool = False,
        group: str = "",
    ) -> None:
        self.parse, self.default, self.help = parse, default, help
        self.key, self.env, self.flag, self.metavar = key, env, flag, metavar
        self.choices, self.switch, self.repeatable = choices, switch, repeatable
        self.secret, self.zero, self.default_note = secret, zero, default_note
        self.moved, self.group = moved, group

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute
        self.name = attribute.removesuffix(UNIT_SUFFIX)
        self.key = self.key or self.name
        if not self.flag and (self.metavar or self.choices or self.switch is not None):
            self.flag = f"--{self.name.replace('_', '-')}"

    # The values are attributes of the instance, so an option is only found on the class.
    @overload
    def __get__(self, instance: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, instance: Options, owner: type) -> T: ...
    def __get__(self, instance: Options | None, owner: type) -> Option[T] | T:
        return self

    @property
    def dest(self) -> str:
        """Return the name of the flag's value among argparse's."""
        return self.flag.removeprefix("--").replace("-", "_")

    def read(self, setting: Setting) -> T:
        """Parse the value of a setting. Raises ConfigError: the value cannot be read; the message names its origin."""
        try:
            return self.parse(setting.value)
        except (ValueError, TypeError, ConfigError, UsageError) as exc:
            raise ConfigError(f"{setting.origin}: {exc}") from exc

    def text(self, value: object) -> str:
        """Return a value as ``s3pool config`` shows it; secrets are hidden."""
        if self.secret and value:
            return HIDDEN
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            between = ":" if any(isinstance(item, int) for item in value) else ","  # rates up and down
            return between.join(str(getattr(item, "spec", item)) for item in value)
        return f"{value:g}" if isinstance(value, float) else self.zero if value == 0 else str(value)

    @property
    def default_text(self) -> str:
        """Return the default for the help and the manual; empty when there is none."""
        if self.default_note or self.switch is not None:
            return self.default_note
        return "" if self.default in (None, "", ()) else self.text(self.default)

    @property
    def flag_help(self) -> str:
        """Return the help of the flag, with the first variable and the default behind it."""
        more = "; ".join(text for text in ("".join(self.env[:1]), self.default_text) if text)
        return f"{self.help} ({more})" if more else self.help


class Options:
    """A table of options, and one value for each; frozen. What is not given has the default."""

    OPTIONS: ClassVar[tuple[Option[Any], ...]] = ()
    PLAIN_FIELDS: ClassVar[Mapping[str, object]] = {}  # values that are no options, and their defaults

    def __init_subclass__(cls) -> None:
        cls.OPTIONS = tuple(option for option in vars(cls).values() if isinstance(option, Option))

    def __init__(self, **values: object) -> None:
        known = {**{option.attribute: option.default for option in self.OPTIONS}, **self.PLAIN_FIELDS}
        if strange := values.keys() - known:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(strange))}")
        self.__dict__.update(known, **values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = [f"{option.attribute}={option.text(getattr(self, option.attribute))}" for option in self.OPTIONS]
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self: OptionsT, **changes: object) -> OptionsT:
        """Return a copy with some values changed."""
        return type(self)(**{**vars(self), **changes})


class SourceOption(NamedTuple):
    """A flag that chooses where options are read from, and its variable."""

    flag: str
    env: str
    metavar: str
    help: str

    @property
    def name(self) -> str:
        """Return the name on every surface."""
        return self.flag.removeprefix("--").replace("-", "_")


CONFIG_FILE = SourceOption(
    "--config", "S3POOL_CONFIG", "FILE", "configuration file (S3POOL_CONFIG; ~/.s3pool/config.yaml)"
)
PROFILE = SourceOption("--profile", "S3POOL_PROFILE", "NAME", "profile of the configuration file (S3POOL_PROFILE)")
ENV_FILE = SourceOption("--env-file", "S3POOL_ENV_FILE", "FILE", "file of VARIABLE=value lines (S3POOL_ENV_FILE; .env)")
SOURCES = (CONFIG_FILE, PROFILE, ENV_FILE)


class Config(Options):
    """The pool's options and their values in effect.

    ``origins`` tells by option name where each value came from. ``proxy`` is the raw ``proxy:``
    section; the proxy checks it. ``workers`` and ``bwlimit`` (bytes a second) are 0 for
    automatic and unlimited. ``key_source`` tells how keys are got that are not here, or may change.
    """

    # fmt: off
    endpoints = Option(parse_endpoints, NO_ENDPOINTS,
        "the nodes, separated by commas, each with ;zone=NAME;weight=N if need be; repeatable; "
        "http://node{1...4}:9000 expands; dns+http://NAME and srv+http://NAME are all nodes of a name",
        env=("S3_POOL", "S3POOL_ENDPOINTS", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), metavar="URL,...",
        repeatable=True)
    public_url: Option[Endpoint | None] = Option(parse_public_url, None,
        "scheme and host of presigned URLs, in place of a node's", env=("S3POOL_PUBLIC_URL",))
    resolve = Option(parse_choice(RESOLVE), "named",
        "which names stand for all of their addresses: those with dns+ or srv+ before them, or all",
        env=("S3POOL_RESOLVE",), choices=RESOLVE)
    resolver: Option[tuple[str, ...]] = Option(parse_servers, (),
        "name servers to ask, in place of the system's, by dnspython", env=("S3POOL_RESOLVER",),
        metavar="ADDRESS:PORT,...", default_note="the system's")
    http_proxy: Option[HttpProxy | None] = Option(lambda value: HttpProxy.parse(parse_text(value)), None,
        "proxy to reach the nodes through; HTTP_PROXY and HTTPS_PROXY are not used", env=("S3POOL_HTTP_PROXY",),
        metavar="URL")
    no_proxy = Option(parse_text, "", "hosts and domains, separated by commas, that are reached without the proxy",
        env=("S3POOL_NO_PROXY", "NO_PROXY", "no_proxy"))
    access_key = Option(parse_signed_text, "", "access key; the secret comes from AWS_SECRET_ACCESS_KEY or a file",
        env=("AWS_ACCESS_KEY_ID", "S3_KEY"), metavar="KEY", default_note="~/.aws/credentials")
    secret_key = Option(parse_signed_text, "",
        "the secret of the access key; no flag, because other users can read command lines",
        env=("AWS_SECRET_ACCESS_KEY", "S3_SECRET"), secret=True, default_note="~/.aws/credentials")
    session_token = Option(parse_signed_text, "", "the token that belongs to temporary keys",
        env=("AWS_SESSION_TOKEN",), secret=True, default_note="~/.aws/credentials")
    sign = Option(parse_bool, True, "send unsigned requests, for public buckets", flag="--no-sign-request",
        switch=False)
    region = Option(parse_region, "us-east-1", "region that requests are signed for",
        env=("AWS_REGION", "AWS_DEFAULT_REGION"), metavar="NAME")
    sts_endpoint = Option(parse_endpoints, NO_ENDPOINTS,
        "where roles and web identities get their keys, such as the nodes themselves (MinIO, RGW)",
        env=("AWS_ENDPOINT_URL_STS",), metavar="URL,...", default_note="AWS's")
    bucket = Option(parse_text, "", "bucket that s3:///KEY means", env=("S3_BUCKET",))
    insecure = Option(parse_bool, False, "do not verify TLS certificates", env=("S3POOL_INSECURE_TLS",), switch=True)
    ca_bundle = Option(parse_text, "", "certificates to trust", env=("AWS_CA_BUNDLE",), metavar="FILE",
        default_note="the system's")
    client_cert = Option(parse_text, "", "certificate to show to nodes that ask for one, in PEM", metavar="FILE")
    client_key = Option(parse_text, "", "private key of the certificate, where it is in another file", metavar="FILE")
    addressing = Option(parse_choice(ADDRESSING), "path",
        "whether the name of a bucket is in the path or in the host name", choices=ADDRESSING)
    zone = Option(parse_zone, "", "where this machine is: the endpoints of the zone come first", env=("S3POOL_ZONE",),
        metavar="NAME")
    strategy = Option(parse_choice(STRATEGIES), "round_robin", "how the next node is picked",
        key="load_balancer.strategy", env=("LB_STRATEGY",), choices=STRATEGIES)
    connect_timeout_s = Option(parse_seconds, 3.0, "for one attempt to connect", key="load_balancer.connect_timeout",
        env=("POOL_CONNECT_TIMEOUT",), metavar="SECONDS")
    read_timeout_s = Option(parse_seconds, 60.0, "without a byte of an answer, after which a request has failed",
        key="load_balancer.request_timeout", env=("LB_REQUEST_TIMEOUT",), metavar="SECONDS")
    retries = Option(parse_count(0, MAX_RETRIES), 5, "extra attempts, on another node first",
        key="load_balancer.max_retries", env=("LB_MAX_RETRIES",), metavar="N")
    health_interval_s = Option(parse_seconds, 5.0, "between two probes of an endpoint, in long commands",
        key="load_balancer.health_check_interval", env=("LB_HEALTH_CHECK_INTERVAL",), metavar="SECONDS")
    sticky = Option(parse_sticky, "",
        f"{STICKY_BY_KEY}: all requests for one object go to one node, for nodes with separate stores",
        key="load_balancer.sticky", default_note="none")
    max_connections = Option(parse_count(1, MAX_CONNECTIONS), 100, "connections to each endpoint",
        key="pool.max_connections", env=("POOL_MAX_CONNECTIONS",), metavar="N",
        default_note="100, bounded by the file limit")
    min_connections = Option(parse_count(0, MAX_CONNECTIONS), 0,
        "connections to each endpoint that the proxy keeps open", key="pool.min_connections",
        env=("POOL_MIN_CONNECTIONS",))
    max_idle_time_s = Option(parse_seconds, 15.0, "seconds after which an idle connection is not used again",
        key="pool.max_idle_time", env=("POOL_MAX_IDLE_TIME",))
    workers = Option(parse_workers, 0, f"objects or parts in flight, at most {MAX_WORKERS}", env=("S3POOL_WORKERS",),
        metavar="N", zero="auto")
    bwlimit: Option[int | tuple[int, int]] = Option(parse_bwlimit, 0,
        "bytes a second over all workers, such as 10M, or UP:DOWN", env=("S3POOL_BWLIMIT",), metavar="RATE",
        zero="none")
    tpslimit = Option(parse_count(0, MAX_TPS), 0, "requests a second over all workers", env=("S3POOL_TPSLIMIT",),
        metavar="N", zero="none")
    response_checksum_validation = Option(parse_choice(CHECKSUM_RULES), CHECKSUM_RULES[0],
        "when_required: downloads are not compared with checksums that the server keeps, but with ETags",
        env=("AWS_RESPONSE_CHECKSUM_VALIDATION",))
    request_checksum_calculation = Option(parse_choice(CHECKSUM_RULES), CHECKSUM_RULES[0],
        "when_required: uploads go without a checksum that nobody asked for", env=("AWS_REQUEST_CHECKSUM_CALCULATION",))
    tracing = Option(parse_bool, False, "send traces to OTEL_EXPORTER_OTLP_ENDPOINT", env=("S3POOL_TRACING",),
        switch=True)
    log_level = Option(parse_choice(LOG_LEVELS), "warning", "the least severe log lines to show",
        env=("S3POOL_LOG_LEVEL",), choices=LOG_LEVELS)

    PLAIN_FIELDS: ClassVar[Mapping[str, object]] = {
        "profile": "", "config_file": "", "env_file": "", "unused_proxy": "",
        "proxy": {}, "origins": {}, "warnings": (), "key_source": None,
    }
    # fmt: on
    profile: str
    config_file: str
    env_file: str
    proxy: Mapping[str, object]
    origins: Mapping[str, str]
    warnings: tuple[str, ...]
    unused_proxy: str  # a variable of the environment that names a proxy, which is not used
    key_source: KeySource | None

    @property
    def is_limited(self) -> bool:
        """Whether bytes or requests a second are."""
        return bool(self.bwlimit or self.tpslimit)

    @property
    def credentials(self) -> Credentials | None:
        """Return the key pair in effect, or None when there is none or nothing is signed."""
        if not self.sign or not self.access_key:
            return None
        return Credentials(self.access_key, self.secret_key, self.session_token)

    def require_endpoints(self) -> tuple[Endpoint, ...]:
        """Return the endpoints. Raises ConfigError: there are none; the message says how to set them."""
        if not self.endpoints:
            raise ConfigError(NO_ENDPOINTS_MESSAGE)
        return self.endpoints

    def require_credentials(self, *, is_set: bool = False) -> None:
        """Check that requests can be signed, where they are to be.

        With ``is_set`` the service of a cloud's machine does not count: without any setting it is asked.
        """
        source = self.key_source
        if self.sign and self.credentials is None and (source is None or (is_set and source.kind == "instance")):
            raise ConfigError(NO_CREDENTIALS_MESSAGE)

    def rows(self) -> list[Row]:
        """Return every option as (name, value as text, origin), in a fixed order."""
        rows = [(CONFIG_FILE.name, self.config_file), (PROFILE.name, self.profile), (ENV_FILE.name, self.env_file)]
        rows += [(option.name, option.text(getattr(self, option.attribute))) for option in self.OPTIONS]
        rows += [(f"proxy.{key}", _proxy_text(key, value)) for key, value in self.proxy.items()]
        return [(name, value, self.origins.get(name, DEFAULT_ORIGIN)) for name, value in rows]


def _proxy_text(key: str, value: object) -> str:
    """Return the text of a raw proxy setting; what may hold a client's secret stays hidden."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    return HIDDEN if isinstance(value, (list, dict)) or any(word in key for word in SECRET_WORDS) else str(value)
