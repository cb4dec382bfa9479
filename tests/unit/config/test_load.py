"""Where each value comes from, and what is said when one is wrong."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from s3pool.config.load import load_config
from s3pool.config.options import Config
from s3pool.errors import ConfigError
from s3pool.model import Credentials, Endpoint

PAIR = {"AWS_ACCESS_KEY_ID": "env-ak", "AWS_SECRET_ACCESS_KEY": "env-sk"}


@dataclass
class Place:
    """A home and a working directory of a test, with writers for each source."""

    home: Path
    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str, *, mode: int = 0o600) -> Path:
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)
        return target

    def yaml(self, text: str) -> Path:
        return self.write(".s3pool/config.yaml", text)

    def dotenv(self, text: str) -> Path:
        return self.write("here/.env", text)

    def load(self, **flags: object) -> Config:
        return load_config(flags, environ=self.environ, cwd=str(self.cwd), home=str(self.home))

    def shown(self, **flags: object) -> dict[str, tuple[str, str]]:
        return {name: (value, origin) for name, value, origin in self.load(**flags).rows()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give an empty home; the process's own environment has no part in it."""
    cwd = tmp_path / "here"
    cwd.mkdir()
    return Place(tmp_path, cwd)


@dataclass
class Case:
    """One option: its default, its value in the file, and if it has them its variable with two values, and its flag."""

    option: str
    default: str
    in_file: str
    key: str = ""
    env: tuple[str, str, str] | None = None  # the variable, its value in the environment, and in .env
    flags: dict[str, object] = field(default_factory=dict)
    flag: str = ""  # the text of its value


# fmt: off
CASES = [
    Case("endpoints", "", in_file="http://y", env=("S3_POOL", "http://e", "http://d"),
         flags={"endpoints": ["http://f"]}, flag="http://f"),
    Case("region", "us-east-1", in_file="y", env=("AWS_REGION", "e", "d"), flags={"region": "f"}, flag="f"),
    Case("bucket", "", in_file="yyy", env=("S3_BUCKET", "eee", "ddd")),
    Case("insecure", "false", in_file="true", env=("S3POOL_INSECURE_TLS", "true", "true"),
         flags={"insecure": True}, flag="true"),
    Case("ca_bundle", "", in_file="/y", env=("AWS_CA_BUNDLE", "/e", "/d"), flags={"ca_bundle": "/f"}, flag="/f"),
    Case("public_url", "", in_file="http://y", env=("S3POOL_PUBLIC_URL", "http://e", "http://d")),
    Case("resolve", "named", in_file="named", env=("S3POOL_RESOLVE", "named", "all"),
         flags={"resolve": "all"}, flag="all"),
    Case("response_checksum_validation", "when_supported", in_file="when_required",
         env=("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required", "when_supported")),
    Case("zone", "", in_file="y", env=("S3POOL_ZONE", "e", "d"), flags={"zone": "f"}, flag="f"),
    Case("no_proxy", "", in_file="y", env=("S3POOL_NO_PROXY", "e,f", "d")),
    Case("min_connections", "0", in_file="5", key="pool.min_connections", env=("POOL_MIN_CONNECTIONS", "3", "4")),
    Case("resolver", "", in_file="10.0.0.2:53", env=("S3POOL_RESOLVER", "[::1]:5353", "10.0.0.1:53"),
         flags={"resolver": "127.0.0.1"}, flag="127.0.0.1:53"),
    Case("http_proxy", "", in_file="http://y:3", env=("S3POOL_HTTP_PROXY", "http://[::1]:1", "http://d:2"),
         flags={"http_proxy": "http://f"}, flag="http://f:3128"),
    Case("client_cert", "", in_file="/y", flags={"client_cert": "/f"}, flag="/f"),
    Case("strategy", "round_robin", in_file="power_of_two", key="load_balancer.strategy",
         env=("LB_STRATEGY", "least_connections", "round_robin"),
         flags={"strategy": "power_of_two"}, flag="power_of_two"),
    Case("connect_timeout", "3", in_file="5.5", key="load_balancer.connect_timeout",
         env=("POOL_CONNECT_TIMEOUT", "2", "4"), flags={"connect_timeout": "1"}, flag="1"),
    Case("read_timeout", "60", in_file="5", key="load_balancer.request_timeout", env=("LB_REQUEST_TIMEOUT", "2", "4"),
         flags={"read_timeout": "1"}, flag="1"),
    Case("retries", "5", in_file="3", key="load_balancer.max_retries", env=("LB_MAX_RETRIES", "1", "2"),
         flags={"retries": "0"}, flag="0"),
    Case("health_interval", "5", in_file="4", key="load_balancer.health_check_interval",
         env=("LB_HEALTH_CHECK_INTERVAL", "2", "3"), flags={"health_interval": 1}, flag="1"),
    Case("max_connections", "100", in_file="4", key="pool.max_connections", env=("POOL_MAX_CONNECTIONS", "2", "3"),
         flags={"max_connections": "1"}, flag="1"),
    Case("max_idle_time", "15", in_file="0.5", key="pool.max_idle_time", env=("POOL_MAX_IDLE_TIME", "2", "3")),
    Case("workers", "auto", in_file="4", env=("S3POOL_WORKERS", "2", "3"), flags={"workers": "1"}, flag="1"),
    Case("addressing", "path", in_file="virtual", flags={"addressing": "path"}, flag="path"),
    Case("tpslimit", "none", in_file="4", env=("S3POOL_TPSLIMIT", "2", "3"), flags={"tpslimit": "10"}, flag="10"),
    Case("bwlimit", "none", in_file="4", env=("S3POOL_BWLIMIT", "2", "3"), flags={"bwlimit": "1024"}, flag="1024"),
    Case("log_level", "warning", in_file="debug", env=("S3POOL_LOG_LEVEL", "info", "error"),
         flags={"log_level": "debug"}, flag="debug"),
    Case("sticky", "", in_file="key", key="load_balancer.sticky"),
    Case("sign", "true", in_file="false", flags={"no_sign_request": True}, flag="false"),
]
# fmt: on


def _as_yaml(key: str, value: str) -> str:
    section, _, name = key.rpartition(".")
    return f"{section}: {{{name}: {value}}}" if section else f"{name}: {value}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.option)
def test_each_source_gives_way_to_the_one_before(place: Place, case: Case) -> None:
    """Flags, then environment, then .env, then the file, then the default; each says so."""
    seen = [place.shown()[case.option]]
    key = case.key or case.option
    file = place.yaml(_as_yaml(key, case.in_file))
    expected = [(case.default, "default"), (case.in_file, f"{file}: {key}")]
    seen.append(place.shown()[case.option])
    if case.env:
        name, in_env, in_dotenv = case.env
        dotenv = place.dotenv(f"{name}={in_dotenv}\n")
        seen.append(place.shown()[case.option])
        place.environ[name] = in_env
        seen.append(place.shown()[case.option])
        expected += [(in_dotenv, f"{dotenv}: {name}"), (in_env, f"environment {name}")]
    if case.flags:
        seen.append(place.shown(**case.flags)[case.option])
        expected.append((case.flag, f"flag --{next(iter(case.flags)).replace('_', '-')}"))

    assert expected == seen


@pytest.mark.parametrize(
    ("names", "option"),
    [
        (("S3_POOL", "S3POOL_ENDPOINTS", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "endpoints"),
        (("AWS_REGION", "AWS_DEFAULT_REGION"), "region"),
    ],
)
def test_names_of_one_option_count_in_their_order(place: Place, names: tuple[str, ...], option: str) -> None:
    """Our own name before AWS's, the special one before the general one."""
    origins = []
    for name in reversed(names):
        value = name.lower().replace("_", "-")
        place.environ[name] = f"http://{value}" if option == "endpoints" else value
        origins.append(place.load().origins[option])

    assert [f"environment {name}" for name in reversed(names)] == origins


def test_defaults_need_no_file(place: Place) -> None:
    """A bare machine has a configuration; only endpoints and keys are missing."""
    config = place.load()

    assert Config(origins=config.origins, key_source=config.key_source) == config


# -- endpoints -------------------------------------------------------------------------------


def test_missing_endpoints_say_how_to_set_them(place: Place) -> None:
    """The first message of every newcomer."""
    config = place.load()

    with pytest.raises(ConfigError, match=r"--endpoints .* S3_POOL"):
        config.require_endpoints()


def test_present_endpoints_are_given(place: Place) -> None:
    """What require gives is what was set."""
    config = place.load(endpoints="http://a")

    assert config.endpoints == config.require_endpoints()
    assert 1 == len(config.endpoints)


# -- credentials -----------------------------------------------------------------------------


def test_missing_keys_say_how_to_set_them(place: Place) -> None:
    """Not before a request needs them: config has to work without."""
    config = place.load()
    place.environ["AWS_EC2_METADATA_DISABLED"] = "true"

    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY.*--no-sign-request"):
        config.require_credentials(is_set=True)
    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY.*--no-sign-request"):
        place.load().require_credentials()


# -- files: where, whether, who may read -------------------------------------------------------


def test_config_file_is_found_in_order(place: Place) -> None:
    """~/.s3pool, then XDG's directory."""
    xdg = place.write(".config/s3pool/config.yaml", "region: xdg")
    first = place.load()
    place.environ["XDG_CONFIG_HOME"] = str(place.home / "xdg")
    place.write("xdg/s3pool/config.yaml", "region: moved")
    second = place.load()
    place.yaml("region: home")

    third = place.load()

    assert (str(xdg), ["xdg", "moved", "home"]) == (first.config_file, [c.region for c in (first, second, third)])


def test_pipe_called_dotenv_is_none(place: Place) -> None:
    """Reading it would wait for somebody to write."""
    os.mkfifo(place.cwd / ".env")

    config = place.load()

    assert "" == config.env_file


def test_directory_called_dotenv_is_none(place: Place) -> None:
    """Virtual environments are sometimes called so."""
    (place.cwd / ".env").mkdir()

    assert "" == place.load().env_file


@pytest.mark.parametrize("name", [".s3pool/config.yaml", "here/.env", ".aws/credentials"])
def test_unreadable_file_is_an_error(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work with half a configuration would go to the wrong place."""
    file = place.write(name, "")
    monkeypatch.setattr("builtins.open", _refuse)

    with pytest.raises(ConfigError) as caught:
        place.load()

    assert f"cannot read {file}: Permission denied" == caught.value.message


def _refuse(path: str, _mode: str) -> None:
    # Root, as whom containers test, may read everything.
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".s3pool/config.yaml", "access_key: a\nsecret_key: hush"),
        (".s3pool/config.yaml", "profiles: {p: {access_key: a, secret_key: hush}}"),
        ("here/.env", "AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=hush"),
        (".aws/credentials", "[default]\naws_access_key_id=a\naws_secret_access_key=hush"),
    ],
)
@pytest.mark.parametrize(("warned", "mode"), [(False, 0o600), (True, 0o640), (True, 0o604)])
def test_secret_that_others_may_read_is_warned_of(place: Place, path: str, text: str, warned: bool, mode: int) -> None:
    """It works all the same, and says which command ends it."""
    file = place.write(path, text, mode=mode)

    config = place.load()

    line = f"{file} holds a secret and others may read it (mode {mode:04o}); run: chmod 600 {file}"
    assert (line,) * warned == config.warnings


# -- values that are bounded or relative -------------------------------------------------------


def test_connections_are_bounded_by_the_file_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All endpoints' connections together must leave files for the work."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, 256))

    config = place.load(endpoints="http://n{1...4}")

    assert (48, "default, bounded by the file limit of 256") == (
        config.max_connections,
        config.origins["max_connections"],
    )


def test_connections_are_at_least_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny limit slows down, it does not stop."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (16, 16))

    assert 1 == place.load(endpoints="http://n{1...4}").max_connections


def test_no_file_limit_bounds_as_the_usual_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinity is the number -1 there."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert 960 == place.load(max_connections=5000).max_connections


# -- what comes of what --------------------------------------------------------------------------

AWS_FILE = """
[default]
aws_access_key_id = default-ak
aws_secret_access_key = default-sk
[work]
aws_access_key_id=work-ak
aws_secret_access_key=work%sk
aws_session_token=work-token
"""
TWO = "region: common\nprofiles:\n  one: {region: first}\n  two: {bucket: second}\n"


@dataclass
class Given:
    """Sources, and attributes of the configuration that comes of them; files have paths below the home."""

    expected: dict[str, object]
    files: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    flags: dict[str, object] = field(default_factory=dict)


def given(files: dict[str, str] | None = None, environ: dict[str, str] | None = None, **flags: object) -> Any:
    """Return a maker of a case: ``given(files, environ, flag=...)(attribute=...)``."""
    return lambda **expected: Given(expected, files or {}, environ or {}, flags)


ENV, CONF, AWS, AWS_CONF = "here/.env", ".s3pool/config.yaml", ".aws/credentials", ".aws/config"
URLS = ["http://a:1", "http://b"]
FILE_KEYS = "access_key: file-ak\nsecret_key: file-sk\n"
ENV_KEYS, WORK_KEYS = Credentials("env-ak", "env-sk"), Credentials("work-ak", "work%sk", "work-token")
WORK_CONF = "[profile work]\nregion = eu-1\naws_access_key_id = a\naws_secret_access_key = s\n[default]\n"
EMPTY = dict.fromkeys(("S3_POOL", "AWS_REGION", "S3POOL_CONFIG", "S3POOL_ENV_FILE", "AWS_PROFILE"), "")
DEFAULTED = "profiles: {default: {bucket: b}, other: {}}"
SECTIONS = (
    "load_balancer: {max_retries: 1, strategy: power_of_two}\nproxy: {listen: ':1', backlog: 5}\n"
    "profiles: {p: {load_balancer: {max_retries: 2}, proxy: {listen: ':2'}}}"
)
OUTCOMES = {
    "any name in the environment beats any in .env": given(
        {ENV: "S3_POOL=http://dotenv\n"}, {"AWS_ENDPOINT_URL": "http://env"}
    )(urls=["http://env"]),
    "empty variables are unset": given({ENV: "S3_POOL=http://dotenv\nLB_MAX_RETRIES=\nEXPORTED\n"}, EMPTY)(
        urls=["http://dotenv"], region="us-east-1", retries=5
    ),
    "None and False are not what the user said": given(
        {CONF: "sign: false"}, {"S3POOL_INSECURE_TLS": "yes"}, insecure=False, no_sign_request=False, region=None
    )(insecure=True, sign=False, region="us-east-1"),
    "only the value that counts is read": given({}, {"LB_MAX_RETRIES": "abc"}, retries="1")(retries=1),
    "endpoints joined": given(endpoints="http://a:1,http://b")(urls=URLS),
    "endpoints repeated": given(endpoints=["http://a:1", "http://b"])(urls=URLS),
    "a node counts once": given(endpoints=["http://a:1, http://b,", "http://a:1/"])(urls=URLS),
    "keys": given({}, PAIR)(credentials=ENV_KEYS),
    "short names of keys": given({}, {"S3_KEY": "a", "S3_SECRET": "s"})(credentials=Credentials("a", "s")),
    "AWS's names first": given({}, {**PAIR, "S3_KEY": "a", "S3_SECRET": "s"})(credentials=ENV_KEYS),
    "session token": given({}, {**PAIR, "AWS_SESSION_TOKEN": "t"})(credentials=Credentials("env-ak", "env-sk", "t")),
    "there is no flag for the secret": given({}, {"AWS_SECRET_ACCESS_KEY": "sk"}, access_key="flag-ak")(
        credentials=Credentials("flag-ak", "sk")
    ),
    "two halves of two pairs": given({CONF: FILE_KEYS}, {"AWS_ACCESS_KEY_ID": "env-ak"})(
        credentials=Credentials("env-ak", "file-sk"), warned="belongs to another access key"
    ),
    "a stale token does not join": given({CONF: FILE_KEYS + "session_token: t"}, PAIR)(credentials=ENV_KEYS),
    "unsigned needs no keys": given({}, {"AWS_ACCESS_KEY_ID": "ak"}, no_sign_request=True)(credentials=None),
    "AWS's file comes last": given({AWS: AWS_FILE})(credentials=Credentials("default-ak", "default-sk")),
    "AWS_PROFILE chooses the section": given({AWS: AWS_FILE}, {"AWS_PROFILE": "work"})(credentials=WORK_KEYS),
    "a broken file that nobody needs": given({AWS: "broken"}, PAIR)(credentials=ENV_KEYS),
    "AWS's files elsewhere": given(
        {"x": AWS_FILE, "y": "[default]\nregion = eu-1\n"},
        {"AWS_SHARED_CREDENTIALS_FILE": "~/x", "AWS_CONFIG_FILE": "~/y"},
    )(credentials=Credentials("default-ak", "default-sk"), region="eu-1"),
    "AWS's config has keys and a region too": given({AWS_CONF: WORK_CONF}, {"AWS_PROFILE": "work"})(
        credentials=Credentials("a", "s"), region="eu-1"
    ),
    "our profile names its twin in AWS's file": given(
        {AWS: AWS_FILE, CONF: "profiles: {work: {region: eu-9}, other: {}}"}, {"AWS_PROFILE": "default"}, profile="work"
    )(credentials=WORK_KEYS, region="eu-9"),
    "a profile of AWS's alone": given({AWS: AWS_FILE}, profile="work")(credentials=WORK_KEYS),
    "a token alone belongs to keys that are gone": given({AWS: AWS_FILE}, {"AWS_SESSION_TOKEN": "stale"})(
        credentials=Credentials("default-ak", "default-sk")
    ),
    "file of the flag": given({CONF: "region: home", "here/o.yaml": "region: named"}, config="o.yaml")(region="named"),
    "file of the variable": given({"here/o.yaml": "region: named"}, {"S3POOL_CONFIG": "~/here/o.yaml"})(region="named"),
    "file of the variable in .env": given({"here/o.yaml": "region: named", ENV: "S3POOL_CONFIG=o.yaml"})(
        region="named"
    ),
    "one .env alone is read, without interpolation": given(
        {
            ENV: "AWS_REGION=cwd\nS3_BUCKET=b",
            "n.env": "export AWS_REGION='named'  # why not\nS3_BUCKET=${AWS_REGION}-b",
        },
        {"S3POOL_ENV_FILE": "~/n.env"},
    )(region="named", bucket="${AWS_REGION}-b"),
    "a parent's .env is another program's": given({".env": "AWS_REGION=parent"})(region="us-east-1"),
    "the rest of a bad .env counts": given({ENV: "what is this\nAWS_REGION=r\n"})(
        region="r", warned="line 1 cannot be read; write NAME=value"
    ),
    "all may read a configuration without a secret": given({CONF: "region: r"})(warnings=()),
    "all may read a .env without a secret": given({ENV: "AWS_REGION=r"})(warnings=()),
    "a bundle of the file is relative to it": given(
        {".s3pool/ca.pem": "", CONF: "ca_bundle: ca.pem\nendpoints: https://a"}
    )(ca_bundle="HOME/.s3pool/ca.pem"),
    "a bundle of the flag is relative to the working directory": given(
        {"here/ca.pem": ""}, endpoints="https://a", ca_bundle="ca.pem"
    )(ca_bundle="HOME/here/ca.pem"),
    "a bundle may be missing without TLS": given({}, {"AWS_CA_BUNDLE": "/n.pem"}, endpoints="http://a")(
        ca_bundle="/n.pem"
    ),
    "a bundle may be missing where nothing is checked": given(
        {}, {"AWS_CA_BUNDLE": "/n.pem"}, endpoints="https://a", insecure=True
    )(ca_bundle="/n.pem"),
    "a profile": given({CONF: TWO}, {"S3POOL_PROFILE": "one"})(profile="one", region="first", bucket=""),
    "the top is the default of all": given({CONF: TWO}, {"S3POOL_PROFILE": "two"})(
        profile="two", region="common", bucket="second"
    ),
    "the flag's profile": given({CONF: TWO}, {"S3POOL_PROFILE": "one"}, profile="two")(profile="two"),
    "default_profile": given({CONF: TWO + "default_profile: two\n"})(profile="two", region="common"),
    "default_profile of the proxy": given({CONF: TWO + "proxy: {default_profile: two}\n"})(profile="two"),
    "a profile called default": given({CONF: DEFAULTED})(profile="default", region="us-east-1", bucket="b"),
    "the only profile": given({CONF: "profiles: {only: }"})(profile="only", region="us-east-1"),
    "no profiles": given({CONF: "region: common\nprofiles: {}"})(profile="", region="common"),
    "sections merge key by key": given({CONF: SECTIONS})(
        retries=2, strategy="power_of_two", proxy={"listen": ":2", "backlog": 5}
    ),
    "the proxy's address has a variable": given({CONF: "proxy: {listen: ':1'}"}, {"PROXY_LISTEN": ":2"})(
        proxy={"listen": ":2"}
    ),
    "also in .env": given({CONF: "proxy: {listen: ':1'}", ENV: "PROXY_LISTEN=:2"})(proxy={"listen": ":2"}),
}


@pytest.mark.parametrize("case", OUTCOMES.values(), ids=OUTCOMES)
def test_sources_make_a_configuration(place: Place, case: Given) -> None:
    """Each row says what counts, and its name why."""
    for path, text in case.files.items():
        place.write(path, text, mode=0o644 if "warnings" in case.expected else 0o600)
    place.environ.update(case.environ)

    config = place.load(**case.flags)

    found = {name: getattr(config, name, None) for name in case.expected}
    found |= {"urls": [endpoint.url for endpoint in config.endpoints]} if "urls" in found else {}
    if warned := case.expected.get("warned"):
        found["warned"] = warned if [str(warned) in line for line in config.warnings] == [True] else config.warnings
    expected = {
        key: value.replace("HOME", str(place.home)) if isinstance(value, str) else value
        for key, value in case.expected.items()
    }
    assert expected == found


def test_unsigned_keys_and_aws_files_are_told(place: Place) -> None:
    """Where a value comes from tells also why it is not used."""
    place.environ["AWS_ACCESS_KEY_ID"] = "ak"
    unsigned = place.load(no_sign_request=True).origins["access_key"]
    place.environ.clear()
    place.write(AWS, AWS_FILE)
    place.write(AWS_CONF, WORK_CONF)

    config = place.load(profile="work")

    assert unsigned.endswith("not used: unsigned")
    assert f"{place.home}/{AWS} [work]" == config.origins["secret_key"]
    assert config.origins["region"].endswith("config [profile work]")


HALF = r"environment {} no {} key"
MISTAKES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, object]]] = {
    HALF.format("AWS_ACCESS_KEY_ID.*", "secret"): ({}, {"AWS_ACCESS_KEY_ID": "ak"}, {}),
    HALF.format("S3_SECRET.*", "access"): ({}, {"S3_SECRET": "hush"}, {}),
    r"AWS_PROFILE: there is no profile 'wrok' in .*credentials": ({AWS: AWS_FILE}, {"AWS_PROFILE": "wrok"}, {}),
    r"credentials: line 1 cannot be read": ({AWS: "broken line with hush\n"}, {}, {}),
    r"credentials: line [1] cannot be read": ({AWS: "[default\n"}, {}, {}),
    r"credentials: line 2 cannot be read": ({AWS: "[default]\nhush\n"}, {}, {}),
    r"config.yaml: no profile 'three'; there are: one, two$": ({CONF: TWO}, {}, {"profile": "three"}),
    r"several profiles \(one, two\) and no default_profile": ({CONF: TWO}, {}, {}),
    r"missing.yaml \(flag --config\): No such file": ({}, {}, {"config": "missing.yaml"}),
    r"missing.env \(flag --env-file\): No such file": ({}, {}, {"env_file": "missing.env"}),
    "cannot read .*here.*: Is a directory": ({}, {}, {"env_file": "."}),
    "cannot read .*: Is a directory": ({}, {}, {"config": "."}),
    "cannot read": ({}, {}, {"config": "a\0b"}),
    "not UTF-8": ({}, {}, {"config": "latin1"}),
    "larger than 16 MiB": ({}, {}, {"config": "/dev/zero"}),
    r"broken.env: line 1 cannot be read": ({"here/broken.env": "what is this\n"}, {}, {"env_file": "broken.env"}),
    "--config needs a value": ({}, {}, {"config": ""}),
    "--profile needs a value": ({}, {}, {"profile": ""}),
    "no configuration file: no profile 'nope'; there are: none": ({}, {}, {"profile": "nope"}),
    "flag --region: must not be empty": ({}, {}, {"region": ""}),
    "flag --endpoints: names no endpoint": ({}, {}, {"endpoints": ","}),
    "flag --endpoints: bad endpoint 'node1:9000': write http": ({}, {}, {"endpoints": "node1:9000"}),
    "flag --retries: 'many' is not a whole number": ({}, {}, {"retries": "many"}),
    "flag --strategy: 'fastest' is unknown; choose one of round_robin": ({}, {}, {"strategy": "fastest"}),
    r"flag --ca-bundle: cannot read .*none.pem": ({}, {}, {"endpoints": "https://a", "ca_bundle": "none.pem"}),
    "environment LB_MAX_RETRIES: 'abc' is not a whole number": ({}, {"LB_MAX_RETRIES": "abc"}, {}),
    "environment LB_REQUEST_TIMEOUT: 'soon' is not a number of seconds": ({}, {"LB_REQUEST_TIMEOUT": "soon"}, {}),
    "environment LB_STRATEGY: 'wrr' is unknown": ({}, {"LB_STRATEGY": "wrr"}, {}),
    "environment S3POOL_INSECURE_TLS: 'maybe' is neither true nor false": ({}, {"S3POOL_INSECURE_TLS": "maybe"}, {}),
    "environment S3POOL_BWLIMIT: bad rate 'fast'": ({}, {"S3POOL_BWLIMIT": "fast"}, {}),
    r"cannot read /nope \(environment S3POOL_CONFIG\)": ({}, {"S3POOL_CONFIG": "/nope"}, {}),
    r"cannot read /nope \(environment S3POOL_ENV_FILE\)": ({}, {"S3POOL_ENV_FILE": "/nope"}, {}),
    "no profile 'nope'": ({}, {"S3POOL_PROFILE": "nope"}, {}),
    "environment S3_POOL: an endpoint holds no user or password": ({}, {"S3_POOL": "http://user:hush@host"}, {}),
    "environment AWS_SECRET_ACCESS_KEY: must be one line": ({}, {**PAIR, "AWS_SECRET_ACCESS_KEY": "hush\nhush"}, {}),
}


@pytest.mark.parametrize(("match", "case"), MISTAKES.items(), ids=MISTAKES)
def test_mistake_is_one_line_that_names_its_place(
    place: Place, match: str, case: tuple[dict[str, str], dict[str, str], dict[str, object]]
) -> None:
    """And never holds a secret: the line that cannot be read may be one."""
    files, environ, flags = case
    for path, text in files.items():
        place.write(path, text)
    (place.cwd / "latin1").write_bytes(b"region: \xe9")
    place.environ.update(environ)

    with pytest.raises(ConfigError, match=match) as caught:
        place.load(**flags)

    assert "hush" not in caught.value.message
    assert "\n" not in caught.value.message


# -- what is shown -----------------------------------------------------------------------------


def test_secrets_are_hidden_everywhere(place: Place) -> None:
    """Neither the table nor a repr in a log may hold one."""
    place.environ.update(PAIR | {"AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "hush"})
    place.yaml("proxy: {client_secret: hush, clients: [hush], tls: true, name: ~, listen: ':1'}")

    config = place.load()
    shown = {name: value for name, value, _ in config.rows()}

    assert "hush" not in repr(config) + repr(shown)
    assert ("********", "********", "env-ak") == (shown["secret_key"], shown["session_token"], shown["access_key"])
    assert ["********", "********", "true", "", ":1"] == [
        shown[f"proxy.{key}"] for key in ("client_secret", "clients", "tls", "name", "listen")
    ]


def test_every_row_has_an_origin(place: Place) -> None:
    """A value from nowhere cannot be changed."""
    place.yaml("proxy: {listen: ':1'}")

    assert [] == [name for name, _, origin in place.load().rows() if not origin]


def test_parsers_stay_unimported_without_their_files(place: Place, import_recorder: Callable[[], set[str]]) -> None:
    """Each costs milliseconds that every command would pay."""
    place.environ.update({**PAIR, "S3_POOL": "http://a", "AWS_REGION": "r"})

    place.load()

    assert set() == import_recorder() & {"yaml", "dotenv", "configparser"}


@pytest.fixture
def import_recorder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Give the names that were asked of the import system since the test began."""
    import builtins

    asked: set[str] = set()
    real = builtins.__import__

    def recorded(name: str, *rest: object, **named: object) -> object:
        asked.add(name.partition(".")[0])
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", recorded)
    return lambda: asked


# -- a second pool -----------------------------------------------------------------------------

OTHER = """
endpoints: [http://common:1]
profiles:
  here: {endpoints: [http://here:1], access_key: here-ak, secret_key: here-sk}
  there:
    endpoints: [http://there:1]
    access_key: there-ak
    secret_key: there-sk
    region: there-1
    load_balancer: {request_timeout: 7}
  keyless: {region: x}
"""


def load_there(place: Place, name: str = "there", **flags: object) -> Config:
    """Give the configuration of the second pool."""
    return load_config(flags, environ=place.environ, cwd=str(place.cwd), home=str(place.home), second_pool=name)


def test_second_pool_is_what_its_profile_says(place: Place) -> None:
    """Flags and environment name the other pool: its keys must not be sent to this one."""
    place.yaml(OTHER)
    place.environ = {**PAIR, "S3_POOL": "http://env:1", "AWS_SESSION_TOKEN": "t", "AWS_REGION": "env-1"}

    config = load_there(place, endpoints=["http://flag:1"], access_key="flag-ak", region="flag-1", profile="here")

    assert (Endpoint.parse("http://there:1"),) == config.endpoints
    assert Credentials("there-ak", "there-sk") == config.credentials
    assert ("there-1", "there") == (config.region, config.profile)


def test_second_pool_shares_limits_with_the_first(place: Place) -> None:
    """How long to wait and how many workers there are is one question for the whole run."""
    place.yaml(OTHER)
    place.environ = {"S3POOL_WORKERS": "3"}

    config = load_there(place, read_timeout="9")

    assert (9.0, 3) == (config.read_timeout_s, config.workers)


def test_second_pool_trusts_what_its_profile_trusts(place: Place) -> None:
    """The bundle of the run serves both, unless the profile has one of its own."""
    bundle, own = place.write("a.pem", ""), place.write("b.pem", "")
    place.yaml(
        "profiles:\n  there: {endpoints: ['https://t:1'], access_key: a, secret_key: b}\n"
        f"  own: {{endpoints: ['https://t:1'], access_key: a, secret_key: b, ca_bundle: {own}}}\n"
    )

    shared = load_there(place, ca_bundle=str(bundle))
    kept = load_there(place, "own", ca_bundle=str(bundle))

    assert (str(bundle), str(own)) == (shared.ca_bundle, kept.ca_bundle)


def test_unknown_second_pool_is_an_error(place: Place) -> None:
    """A slip in the name must not read from the first pool."""
    place.yaml(OTHER)

    with pytest.raises(ConfigError, match="no profile 'nowhere'; there are: here, keyless, there"):
        load_there(place, "nowhere")


def test_second_pool_without_endpoints_is_an_error(place: Place) -> None:
    """The environment's endpoints are those of the first pool."""
    place.yaml("profiles: {there: {access_key: a, secret_key: b}}")
    place.environ = {"S3_POOL": "http://env:1"}

    with pytest.raises(ConfigError, match="profile 'there' sets no endpoints"):
        load_there(place)
