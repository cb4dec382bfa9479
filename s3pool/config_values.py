"""The settled configuration: one frozen value, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping

from s3pool.errors import ConfigError
from s3pool.model import Credentials, Endpoint
from s3pool.record import dataclass, field

DEFAULT_ORIGIN = "default"
HIDDEN = "********"
SECRET_WORDS = ("secret", "token", "password", "key", "client")

NO_ENDPOINTS_MESSAGE = (
    "no endpoint is set: use --endpoints http://host:port,..., the variable S3_POOL, "
    "or endpoints: in ~/.s3pool/config.yaml"
)
NO_CREDENTIALS_MESSAGE = (
    "no credentials are set: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, access_key: and secret_key: in "
    "~/.s3pool/config.yaml, or ~/.aws/credentials; for public buckets --no-sign-request"
)


@dataclass(frozen=True, slots=True)
class Config:
    """Every effective value. ``origins`` says by option name where each came from.

    ``workers`` and ``bwlimit`` (bytes a second) are 0 for automatic and unlimited.
    ``proxy`` is the raw ``proxy:`` section; the proxy checks it.
    """

    endpoints: tuple[Endpoint, ...] = ()
    credentials: Credentials | None = None
    sign: bool = True
    region: str = "us-east-1"
    bucket: str = ""
    insecure: bool = False
    ca_bundle: str = ""
    client_cert: str = ""
    client_key: str = ""
    addressing: str = "path"
    strategy: str = "round_robin"
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 60.0
    retries: int = 5
    health_interval_s: float = 5.0
    max_connections: int = 100
    max_idle_s: float = 15.0
    workers: int = 0
    bwlimit: int = 0
    log_level: str = "warning"
    sticky: str = ""
    profile: str = ""
    config_file: str = ""
    env_file: str = ""
    proxy: Mapping[str, object] = field(default_factory=dict, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def require_endpoints(self) -> tuple[Endpoint, ...]:
        """Give the endpoints.

        Raises:
            ConfigError: there is none; the message says how to set them.
        """
        if not self.endpoints:
            raise ConfigError(NO_ENDPOINTS_MESSAGE)
        return self.endpoints

    def require_credentials(self) -> Credentials | None:
        """Give the key pair to sign with, or None when nothing is to be signed.

        Raises:
            ConfigError: requests are to be signed and there is no key; it says how to set one.
        """
        if self.sign and self.credentials is None:
            raise ConfigError(NO_CREDENTIALS_MESSAGE)
        return self.credentials


def effective(config: Config) -> list[tuple[str, str, str]]:
    """Give every option as (name, value as text, origin), secrets hidden, in a fixed order."""
    keys = config.credentials or Credentials("", "")
    rows: list[tuple[str, str]] = [
        ("config", config.config_file),
        ("profile", config.profile),
        ("env_file", config.env_file),
        ("endpoints", ",".join(endpoint.url for endpoint in config.endpoints)),
        ("access_key", keys.access_key),
        ("secret_key", HIDDEN if keys.secret_key else ""),
        ("session_token", HIDDEN if keys.session_token else ""),
        ("sign", _bool_text(config.sign)),
        ("region", config.region),
        ("bucket", config.bucket),
        ("insecure", _bool_text(config.insecure)),
        ("ca_bundle", config.ca_bundle),
        ("client_cert", config.client_cert),
        ("client_key", config.client_key),
        ("addressing", config.addressing),
        ("strategy", config.strategy),
        ("connect_timeout", f"{config.connect_timeout_s:g}"),
        ("read_timeout", f"{config.read_timeout_s:g}"),
        ("retries", str(config.retries)),
        ("health_interval", f"{config.health_interval_s:g}"),
        ("sticky", config.sticky),
        ("max_connections", str(config.max_connections)),
        ("max_idle_time", f"{config.max_idle_s:g}"),
        ("workers", str(config.workers) if config.workers else "auto"),
        ("bwlimit", str(config.bwlimit) if config.bwlimit else "none"),
        ("log_level", config.log_level),
        *((f"proxy.{key}", _proxy_text(key, value)) for key, value in config.proxy.items()),
    ]
    return [(name, value, config.origins.get(name, DEFAULT_ORIGIN)) for name, value in rows]


def _bool_text(value: bool) -> str:
    return "true" if value else "false"


def _proxy_text(key: str, value: object) -> str:
    """Give a proxy setting's text; whatever may hold a client's secret stays hidden."""
    if isinstance(value, bool):
        return _bool_text(value)
    if value is None:
        return ""
    if isinstance(value, (list, dict)) or any(word in key for word in SECRET_WORDS):
        return HIDDEN
    return str(value)
