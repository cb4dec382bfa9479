from __future__ import annotations

import pytest

from s3pool.errors import ConfigError
from s3pool.model import Endpoint
from s3pool.proxy.settings import Address, read_address, read_settings


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
    assert address == read_address(text)


@pytest.mark.parametrize("text", ["host", "::1:80", "h:70000", "h:x", ""])
def test_no_addresses(text: str) -> None:
    """A guess would listen where nobody looks."""
    with pytest.raises(ConfigError):
        read_address(text)


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
    ],
)
def test_senseless_settings_are_refused(section: dict[str, object], words: str) -> None:
    """One clear line that names the key."""
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        read_settings({}, section, directory="")
