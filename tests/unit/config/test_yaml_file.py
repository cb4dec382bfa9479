"""The configuration file's shape, and each way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s3pool.config.files import ConfigFile, load_config_file
from s3pool.errors import ConfigError

# The samples of the first s3pool, which people have.
FLAT = """
endpoints:
  - https://s3-1.example.com
  - https://s3-2.example.com

access_key: your_key
secret_key: your_secret
region: us-east-1
bucket: default-bucket
"""
PROFILES = """
profiles:
  production:
    endpoints:
      - https://s3-1.example.com:9000
    access_key: AK
    secret_key: SK
  development:
    endpoints: [http://localhost:9000]
load_balancer:
  strategy: round_robin
  health_check_interval: 30
  request_timeout: 300
  max_retries: 3
  connection_pooling: true
proxy:
  listen: "0.0.0.0:8000"
  default_profile: production
"""


@pytest.fixture(params=["libyaml", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with both of PyYAML's parsers: not every installation has the fast one."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    return str(request.param)


def load(tmp_path: Path, text: str) -> ConfigFile:
    """Read a text as a private configuration file."""
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    return load_config_file(str(file))


def test_flat_file_is_read(tmp_path: Path, loader: str) -> None:
    """The form of the first s3pool's manual, which it could not read itself."""
    file = load(tmp_path, FLAT)

    assert ["endpoints", "access_key", "secret_key", "region", "bucket"] == list(file.common)
    assert ("default-bucket", "") == (file.common["bucket"].value, file.choose(""))


def test_profiles_of_the_first_s3pool_are_read(tmp_path: Path, loader: str) -> None:
    """Its default stands in the proxy's section, and it had a switch for what is always on."""
    file = load(tmp_path, PROFILES)

    assert ("production", {"listen": "0.0.0.0:8000"}) == (file.choose(""), file.proxy_section("production"))
    assert ["strategy", "health_interval", "read_timeout", "retries"] == list(file.common)
    assert f"{tmp_path}/c.yaml: profiles.production.access_key" == file.profiles["production"]["access_key"].origin


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "\ufeff# with a mark\n", "bucket:\nprofiles:\nproxy:\npool:\n"]
)
def test_empty_file_sets_nothing(tmp_path: Path, loader: str, text: str) -> None:
    """A key without a value is unset."""
    file = load(tmp_path, text)

    assert ({}, {}, "") == (file.common, file.profiles, file.choose(""))


def test_merge_keys_and_anchors_work(tmp_path: Path, loader: str) -> None:
    """They are YAML's own way to share; overriding a merged key is no repetition."""
    file = load(tmp_path, "profiles:\n  a: &a {region: one, bucket: bbb}\n  b: {<<: *a, region: two}\n  c: *a\n")

    assert ("two", "bbb", "one") == (
        file.profiles["b"]["region"].value,
        file.profiles["b"]["bucket"].value,
        file.profiles["c"]["region"].value,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("load_balancer:\n\tstrategy: x", "line 2 is indented with a tab; YAML takes spaces only"),
        ("region: a\nregion: b", "line 2, column 1: not valid YAML: the key <region> stands there twice"),
        ("pool:\n  max_connections: 1\n  max_connections: 2", "line 3, column 3: not valid YAML: the key"),
        ("region: [", "line "),
        ("region: 'open", "line "),
        ("---\nregion: a\n---\nregion: b", "expected a single document in the stream but found another document"),
        ("secret_key: *hush", "line 1, column 13: not valid YAML: "),
        ("secret_key: !hush x", "line 1, column 13: not valid YAML: "),
        ("? [a]\n: b", "not valid YAML"),
        ("region: \x01", "it holds a character that YAML does not allow"),
        ("region: 2026-13-45", "it is not usable YAML (ValueError)"),
        ("[" * 50000 + "]" * 50000, "it is not usable YAML (RecursionError)"),
        ("- a", "it must be a map of keys, not a list"),
        ("text", "it must be a map of keys, not text"),
        ("7", "it must be a map of keys, not a number"),
        ("regoin: x", "regoin: unknown key; did you mean region?"),
        ("zzzzzz: x", "zzzzzz: unknown key"),
        ("1: x", "1: unknown key"),
        ("retries: 3", "retries: unknown key; did you mean load_balancer.max_retries?"),
        ("load_balancer: {strategi: x}", "load_balancer.strategi: unknown key; did you mean load_balancer.strategy?"),
        ("pool: {max_conns: 5}", "pool.max_conns: unknown key; did you mean pool.max_connections?"),
        ("profile: x", "profile: unknown key; did you mean profiles?"),
        ("profiles: {a: {buket: x}}", "profiles.a.buket: unknown key; did you mean bucket?"),
        ("profiles: {a: {profiles: {}}}", "profiles.a.profiles: unknown key"),
        ("profiles: [a]", "profiles: must be a map of keys, not a list"),
        ("profiles: {a: 5}", "profiles.a: must be a map of keys, not a number"),
        ("profiles: {5: {}}", "profiles: the name 5 must be text; put it in quotes"),
        ("profiles: {a: {proxy: 5}}", "profiles.a.proxy: must be a map of keys, not a number"),
        ("default_profile: x", "default_profile: no profile 'x'; there are: none"),
        ("default_profile: 5", "default_profile: must be text, not a number; put it in quotes"),
        ("proxy: {default_profile: x}\nprofiles: {y: }", "proxy.default_profile: no profile 'x'; there are: y"),
        ("proxy: 8000", "proxy: must be a map of keys, not a number"),
        ("pool: 5", "pool: must be a map of keys, not a number"),
        ("load_balancer: {max_retries: abc}", "load_balancer.max_retries: 'abc' is not a whole number"),
        ("profiles: {a: {workers: -1}}", "profiles.a.workers: -1 is not between 0 and 1024"),
        ("load_balancer: {strategy: wrr}", "load_balancer.strategy: 'wrr' is unknown; choose one of"),
        (
            "load_balancer: {connection_pooling: false}",
            "load_balancer.connection_pooling: connections are always pooled",
        ),
        ("load_balancer: {connection_pooling: some}", "load_balancer.connection_pooling: 'some' is neither true nor"),
        ("secret_key: 5318008", "secret_key: must be text, not a number; put it in quotes"),
        ("sign: perhaps", "sign: 'perhaps' is neither true nor false"),
        ("endpoints: [node1]", "endpoints: bad endpoint 'node1': write http://host:port"),
        ("endpoints: {a: b}", "endpoints: must be a list of URLs, not a map"),
    ],
)
def test_wrong_file_is_one_line_that_names_file_and_key(tmp_path: Path, loader: str, text: str, expected: str) -> None:
    """And never the text of a secret."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert caught.value.message.startswith(f"{tmp_path}/c.yaml: ")
    assert expected in caught.value.message
    assert "\n" not in caught.value.message
    assert not {"hush", "5318008"} & set(caught.value.message.replace("'", " ").replace("!", " ").split())
