from __future__ import annotations

import pytest

from s3pool.errors import ConfigError
from s3pool.model import Endpoint
from s3pool.proxy.settings import Address, parse_address, read_settings


def test_flags_stand_over_the_section() -> None:
    """As everywhere in s3pool."""
    settings = read_settings({"auth": "passthrough", "tries": None}, {"auth": "open", "tries": 5}, directory="/etc")

    assert ("passthrough", 5) == (settings.auth, settings.tries)


def test_files_of_the_section_start_at_the_configuration() -> None:
    """A service's working directory is another."""
    section = {"clients": "c.yaml", "tls_cert": "c.pem", "tls_key": "/abs/k.pem"}

    settings = read_settings({}, section, directory="/etc/s3pool")

    assert ("/etc/s3pool/c.yaml", "/etc/s3pool/c.pem", "/abs/k.pem") == (
        settings.clients_file,
        settings.tls_cert,
        settings.tls_key,
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::1]:80", Address("::1", 80)),
        (":80", Address("0.0.0.0", 80)),
        (8000, Address("0.0.0.0", 8000)),
    ],
)
def test_addresses(text: object, address: Address) -> None:
    """Host and port, IPv6 in brackets."""
    assert address == parse_address(text)


@pytest.mark.parametrize("text", ["host", "::1:80", "h:70000", "h:x", ""])
def test_no_addresses(text: str) -> None:
    """A guess would listen where nobody looks."""
    with pytest.raises(ConfigError):
        parse_address(text)


def test_yaml_reads_off_as_false() -> None:
    """And it means off all the same."""
    section = {"admin_listen": False, "sticky": False, "sigv2": False, "access_log": False}

    settings = read_settings({}, section, directory="")

    assert (None, "", "off", "off") == (settings.admin_listen, settings.sticky, settings.sigv2, settings.access_log)


def test_tiers_are_lists_of_endpoints() -> None:
    """The first one is preferred."""
    settings = read_settings({}, {"tiers": [["http://a"], ["http://b", "http://c"]]}, directory="")

    assert ((Endpoint.parse("http://a"),), (Endpoint.parse("http://b"), Endpoint.parse("http://c"))) == settings.tiers


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"autth": "open"}, "proxy.autth: unknown key"),
        ({"auth": "none"}, "proxy.auth: must be verify, passthrough, open"),
        ({"tries": 0}, "proxy.tries: must be a whole number from 1 on"),
        ({"tries": True}, "proxy.tries"),
        ({"tiers": ["http://a"]}, "proxy.tiers: must be a list of lists"),
        ({"replay_buffer": "much"}, "proxy.replay_buffer"),
        ({"idle_timeout": "soon"}, "proxy.idle_timeout"),
        ({"domains": [1]}, "proxy.domains"),
        ({"auth": "passthrough", "domains": ["a.b"]}, "--domain changes the path"),
        ({"auth": "open", "listen": "0.0.0.0:1"}, "--i-know-this-is-open"),
        ({"tls_client_ca": "x"}, "--tls-client-ca needs"),
        ({"sticky": "key", "processes": 2}, "sticky: key needs one process"),
    ],
)
def test_senseless_settings_are_refused(section: dict[str, object], words: str) -> None:
    """One clear line that names the key."""
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        read_settings({}, section, directory="")


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("retry_budget", "20%", 0.2),
        ("retry_budget", 50, 0.5),
        ("retry_budget", False, float("inf")),
        ("probe", "/health?x=1", "/health?x=1"),
        ("ttfb_timeout", "2m", 120.0),
        ("spool_limit", "2GiB", 2 << 30),
        ("trailers", "pass", "pass"),
        ("tiers", [["http://a{1...2}"]], ((Endpoint.parse("http://a1"), Endpoint.parse("http://a2")),)),
    ],
)
def test_values_are_read(key: str, value: object, read: object) -> None:
    """As flags write them, and as YAML does."""
    assert read == getattr(read_settings({}, {key: value}, directory=""), key)


def test_networks_are_read_from_a_list_or_a_text() -> None:
    """One flag may hold several."""
    settings = read_settings({"trust_forwarded": ["10.0.0.0/8,fd00::/8", "192.0.2.1"]}, {}, directory="")

    assert ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"] == [str(network) for network in settings.trust_forwarded]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retry_budget", "much"),
        ("retry_budget", True),
        ("probe", "ping"),
        ("probe", "/a b"),
        ("probe_timeout", 0),
        ("rise", 0),
        ("trust_forwarded", "10.0.0.1/8"),
        ("trust_forwarded", 10),
        ("spool_dir", "/nonexistent"),
        ("verify_body", "maybe"),
    ],
)
def test_unfit_values_name_their_key(key: str, value: object) -> None:
    """The message says where to look."""
    with pytest.raises(ConfigError, match=key.replace("_", "[-_]")):
        read_settings({}, {key: value}, directory="")
