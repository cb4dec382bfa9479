"""Where each value comes from, and what is said when one is wrong."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from s3pool.config.load import load_config, load_profile
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
    """One option with a different value in each source, and its text when shown."""

    option: str
    key: str
    default: str
    flag: str = ""
    flags: dict[str, object] = field(default_factory=dict)
    env: str = ""
    in_env: str = ""
    in_dotenv: str = ""
    in_file: str = ""


CASES = [
    Case(
        "endpoints",
        "endpoints",
        "",
        "http://f",
        {"endpoints": ["http://f"]},
        "S3_POOL",
        "http://e",
        "http://d",
        "http://y",
    ),
    Case("region", "region", "us-east-1", "f", {"region": "f"}, "AWS_REGION", "e", "d", "y"),
    Case("bucket", "bucket", "", env="S3_BUCKET", in_env="eee", in_dotenv="ddd", in_file="yyy"),
    Case("insecure", "insecure", "false", "true", {"insecure": True}, "S3POOL_INSECURE_TLS", "true", "true", "true"),
    Case("ca_bundle", "ca_bundle", "", "/f", {"ca_bundle": "/f"}, "AWS_CA_BUNDLE", "/e", "/d", "/y"),
    Case("client_cert", "client_cert", "", "/f", {"client_cert": "/f"}, in_file="/y"),
    Case(
        "strategy",
        "load_balancer.strategy",
        "round_robin",
        "power_of_two",
        {"strategy": "power_of_two"},
        "LB_STRATEGY",
        "least_connections",
        "round_robin",
        "power_of_two",
    ),
    Case(
        "connect_timeout",
        "load_balancer.connect_timeout",
        "3",
        "1",
        {"connect_timeout": "1"},
        "POOL_CONNECT_TIMEOUT",
        "2",
        "4",
        "5.5",
    ),
    Case(
        "read_timeout",
        "load_balancer.request_timeout",
        "60",
        "1",
        {"read_timeout": "1"},
        "LB_REQUEST_TIMEOUT",
        "2",
        "4",
        "5",
    ),
    Case("retries", "load_balancer.max_retries", "5", "0", {"retries": "0"}, "LB_MAX_RETRIES", "1", "2", "3"),
    Case(
        "health_interval",
        "load_balancer.health_check_interval",
        "5",
        "1",
        {"health_interval": 1},
        "LB_HEALTH_CHECK_INTERVAL",
        "2",
        "3",
        "4",
    ),
    Case(
        "max_connections",
        "pool.max_connections",
        "100",
        "1",
        {"max_connections": "1"},
        "POOL_MAX_CONNECTIONS",
        "2",
        "3",
        "4",
    ),
    Case(
        "max_idle_time", "pool.max_idle_time", "15", env="POOL_MAX_IDLE_TIME", in_env="2", in_dotenv="3", in_file="0.5"
    ),
    Case("workers", "workers", "auto", "1", {"workers": "1"}, "S3POOL_WORKERS", "2", "3", "4"),
    Case("addressing", "addressing", "path", "path", {"addressing": "path"}, in_file="virtual"),
    Case("bwlimit", "bwlimit", "none", "1024", {"bwlimit": "1024"}, "S3POOL_BWLIMIT", "2", "3", "4"),
    Case(
        "log_level",
        "log_level",
        "warning",
        "debug",
        {"log_level": "debug"},
        "S3POOL_LOG_LEVEL",
        "info",
        "error",
        "debug",
    ),
    Case("sticky", "load_balancer.sticky", "", in_file="key"),
    Case("sign", "sign", "true", "false", {"no_sign_request": True}, in_file="false"),
]


def _as_yaml(key: str, value: str) -> str:
    section, _, name = key.rpartition(".")
    return f"{section}: {{{name}: {value}}}" if section else f"{name}: {value}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.option)
def test_each_source_gives_way_to_the_one_before(place: Place, case: Case) -> None:
    """Flags, then environment, then .env, then the file, then the default; each says so."""
    seen = [place.shown()[case.option]]
    file = place.yaml(_as_yaml(case.key, case.in_file))
    expected = [(case.default, "default"), (case.in_file, f"{file}: {case.key}")]
    seen.append(place.shown()[case.option])
    if case.env:
        dotenv = place.dotenv(f"{case.env}={case.in_dotenv}\n")
        seen.append(place.shown()[case.option])
        place.environ[case.env] = case.in_env
        seen.append(place.shown()[case.option])
        expected += [(case.in_dotenv, f"{dotenv}: {case.env}"), (case.in_env, f"environment {case.env}")]
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


def test_any_name_in_the_environment_beats_any_in_dotenv(place: Place) -> None:
    """.env never overrides what is set, not by another name of the same thing either."""
    place.environ["AWS_ENDPOINT_URL"] = "http://env"
    place.dotenv("S3_POOL=http://dotenv\n")

    assert ["http://env"] == [endpoint.url for endpoint in place.load().endpoints]


def test_empty_variables_are_unset(place: Place) -> None:
    """Cron files and containers clear variables that way."""
    place.environ.update(
        {"S3_POOL": "", "AWS_REGION": "", "S3POOL_CONFIG": "", "S3POOL_ENV_FILE": "", "AWS_PROFILE": ""}
    )
    place.dotenv("S3_POOL=http://dotenv\nLB_MAX_RETRIES=\nEXPORTED\n")

    config = place.load()

    assert (["http://dotenv"], "us-east-1", 5) == ([e.url for e in config.endpoints], config.region, config.retries)


def test_defaults_need_no_file(place: Place) -> None:
    """A bare machine has a configuration; only endpoints and keys are missing."""
    config = place.load()

    assert Config(origins=config.origins) == config


def test_absent_flags_and_switches_leave_no_trace(place: Place) -> None:
    """None and argparse's False are not what the user said."""
    place.environ["S3POOL_INSECURE_TLS"] = "yes"
    place.yaml("sign: false")

    config = place.load(insecure=False, no_sign_request=False, region=None)

    assert (True, False, "us-east-1") == (config.insecure, config.sign, config.region)


# -- endpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        {"endpoints": "http://a:1,http://b"},
        {"endpoints": ["http://a:1", "http://b"]},
        {"endpoints": ["http://a:1, http://b,", "http://a:1/"]},
    ],
)
def test_endpoints_repeat_and_join(place: Place, flags: dict[str, object]) -> None:
    """The flag takes lists, and may stand twice; a node counts once."""
    assert ["http://a:1", "http://b"] == [endpoint.url for endpoint in place.load(**flags).endpoints]


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


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        (Credentials("env-ak", "env-sk"), PAIR),
        (Credentials("a", "s"), {"S3_KEY": "a", "S3_SECRET": "s"}),
        (Credentials("env-ak", "env-sk"), {**PAIR, "S3_KEY": "a", "S3_SECRET": "s"}),
        (Credentials("env-ak", "env-sk", "t"), {**PAIR, "AWS_SESSION_TOKEN": "t"}),
    ],
)
def test_keys_from_the_environment(place: Place, expected: Credentials, environ: dict[str, str]) -> None:
    """AWS's names first, then the short ones."""
    place.environ.update(environ)

    assert expected == place.load().require_credentials()


def test_access_key_flag_takes_the_secret_from_elsewhere(place: Place) -> None:
    """There is no flag for the secret: every user of the machine could read it."""
    place.environ["AWS_SECRET_ACCESS_KEY"] = "sk"

    assert Credentials("flag-ak", "sk") == place.load(access_key="flag-ak").credentials


def test_pair_from_two_key_pairs_is_warned_of(place: Place) -> None:
    """The signature would not match, and the reason is hard to see."""
    place.yaml("access_key: file-ak\nsecret_key: file-sk")
    place.environ["AWS_ACCESS_KEY_ID"] = "env-ak"

    config = place.load()

    assert Credentials("env-ak", "file-sk") == config.credentials
    assert ["belongs to another access key" in warning for warning in config.warnings] == [True]


def test_session_token_of_another_key_is_left_out(place: Place) -> None:
    """A stale token in the file must not join the environment's keys."""
    place.yaml("access_key: file-ak\nsecret_key: file-sk\nsession_token: file-token")
    place.environ.update(PAIR)

    assert Credentials("env-ak", "env-sk") == place.load().credentials


@pytest.mark.parametrize(
    ("environ", "match"),
    [
        ({"AWS_ACCESS_KEY_ID": "ak"}, "environment AWS_ACCESS_KEY_ID.* no secret key"),
        ({"S3_SECRET": "hush"}, "environment S3_SECRET.* no access key"),
    ],
)
def test_half_a_pair_is_an_error(place: Place, environ: dict[str, str], match: str) -> None:
    """It says which half is there, and where."""
    place.environ.update(environ)

    with pytest.raises(ConfigError, match=match) as caught:
        place.load()

    assert "hush" not in caught.value.message


def test_unsigned_needs_no_keys(place: Place) -> None:
    """Public buckets; half a pair does not matter then."""
    place.environ["AWS_ACCESS_KEY_ID"] = "ak"

    config = place.load(no_sign_request=True)

    assert (None, None) == (config.credentials, config.require_credentials())
    assert config.origins["access_key"].endswith("not used: unsigned")


def test_missing_keys_say_how_to_set_them(place: Place) -> None:
    """Not before a request needs them: config has to work without."""
    config = place.load()

    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY.*--no-sign-request"):
        config.require_credentials()


# -- AWS's files -----------------------------------------------------------------------------

AWS_FILE = """
[default]
aws_access_key_id = default-ak
aws_secret_access_key = default-sk
[work]
aws_access_key_id=work-ak
aws_secret_access_key=work%sk
aws_session_token=work-token
"""


@pytest.mark.parametrize(
    ("expected", "profile"),
    [(Credentials("default-ak", "default-sk"), ""), (Credentials("work-ak", "work%sk", "work-token"), "work")],
)
def test_aws_file_comes_last(place: Place, expected: Credentials, profile: str) -> None:
    """AWS_PROFILE chooses the section."""
    place.write(".aws/credentials", AWS_FILE)
    place.environ["AWS_PROFILE"] = profile

    config = place.load()

    assert expected == config.credentials
    assert f"{place.home}/.aws/credentials [{profile or 'default'}]" == config.origins["secret_key"]


def test_aws_file_is_not_read_when_a_key_is_set(place: Place) -> None:
    """A broken file that nobody needs is in nobody's way."""
    place.write(".aws/credentials", "broken")
    place.environ.update(PAIR)

    assert Credentials("env-ak", "env-sk") == place.load().credentials


def test_aws_file_elsewhere(place: Place) -> None:
    """AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name the files."""
    place.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(place.write("elsewhere", AWS_FILE))
    place.environ["AWS_CONFIG_FILE"] = str(place.write("config", "[default]\nregion = eu-1\n"))

    config = place.load()

    assert (Credentials("default-ak", "default-sk"), "eu-1") == (config.credentials, config.region)


def test_aws_config_file_has_keys_and_region_too(place: Place) -> None:
    """Its sections are called `profile NAME`."""
    place.write(
        ".aws/config", "[profile work]\nregion = eu-1\naws_access_key_id = a\naws_secret_access_key = s\n[default]\n"
    )
    place.environ["AWS_PROFILE"] = "work"

    config = place.load()

    assert (Credentials("a", "s"), "eu-1") == (config.credentials, config.region)
    assert config.origins["region"].endswith("config [profile work]")


def test_unknown_aws_profile_is_an_error(place: Place) -> None:
    """Else a slip in its name would fall back to nothing."""
    place.write(".aws/credentials", AWS_FILE)
    place.environ["AWS_PROFILE"] = "wrok"

    with pytest.raises(ConfigError, match=r"AWS_PROFILE: there is no profile 'wrok' in .*credentials"):
        place.load()


def test_our_profile_names_its_twin_in_the_aws_file(place: Place) -> None:
    """One name for endpoints and keys; the flag counts more than AWS_PROFILE."""
    place.write(".aws/credentials", AWS_FILE)
    place.yaml("profiles: {work: {region: eu-9}, other: {}}")
    place.environ["AWS_PROFILE"] = "default"

    config = place.load(profile="work")

    assert ("work-ak", "eu-9") == (config.credentials and config.credentials.access_key, config.region)


def test_profile_may_be_awss_alone(place: Place) -> None:
    """Without profiles of ours, --profile means what it means to aws."""
    place.write(".aws/credentials", AWS_FILE)

    config = place.load(profile="work")

    assert Credentials("work-ak", "work%sk", "work-token") == config.credentials


def test_session_token_from_elsewhere_does_not_join_the_aws_file(place: Place) -> None:
    """A token alone in the environment belongs to keys that are gone."""
    place.write(".aws/credentials", AWS_FILE)
    place.environ["AWS_SESSION_TOKEN"] = "stale"

    assert Credentials("default-ak", "default-sk") == place.load().credentials


@pytest.mark.parametrize("text", ["broken line with hush\n", "[default\n", "[default]\nhush\n"])
def test_broken_aws_file_is_one_line_without_its_text(place: Place, text: str) -> None:
    """The line that cannot be read may be the secret."""
    place.write(".aws/credentials", text)

    with pytest.raises(ConfigError, match=r"credentials: line \d+ cannot be read") as caught:
        place.load()

    assert "hush" not in caught.value.message
    assert "\n" not in caught.value.message


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


@pytest.mark.parametrize("name", ["flag", "environment", "dotenv"])
def test_config_file_is_named(place: Place, name: str) -> None:
    """By the flag, the variable, or the variable in .env; relative to where one stands."""
    place.yaml("region: home")
    place.write("here/other.yaml", "region: named")
    flags = {"config": "other.yaml"} if name == "flag" else {}
    if name == "environment":
        place.environ["S3POOL_CONFIG"] = "~/here/other.yaml"
    if name == "dotenv":
        place.dotenv("S3POOL_CONFIG=other.yaml")

    config = place.load(**flags)

    assert "named" == config.region


def test_env_file_is_named_instead_of_the_working_directorys(place: Place) -> None:
    """Only one of them is read."""
    place.dotenv("AWS_REGION=cwd\nS3_BUCKET=cwd-bucket")
    named = place.write("named.env", "export AWS_REGION='named'  # why not\nS3_BUCKET=${AWS_REGION}-b")
    place.environ["S3POOL_ENV_FILE"] = str(named)

    config = place.load()

    assert ("named", "${AWS_REGION}-b", str(named)) == (config.region, config.bucket, config.env_file)


def test_dotenv_of_a_parent_directory_is_not_read(place: Place) -> None:
    """What lies above may be another program's."""
    place.write(".env", "AWS_REGION=parent")

    assert "us-east-1" == place.load().region


def test_pipe_called_dotenv_is_none(place: Place) -> None:
    """Reading it would wait for somebody to write."""
    os.mkfifo(place.cwd / ".env")

    config = place.load()

    assert "" == config.env_file


def test_directory_called_dotenv_is_none(place: Place) -> None:
    """Virtual environments are sometimes called so."""
    (place.cwd / ".env").mkdir()

    assert "" == place.load().env_file


def test_bad_line_in_a_found_dotenv_is_a_warning(place: Place) -> None:
    """It may be another program's; the rest of it counts."""
    file = place.dotenv("what is this\nAWS_REGION=r\n")

    config = place.load()

    assert ("r", (f"{file}: line 1 cannot be read; write NAME=value",)) == (config.region, config.warnings)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"config": "missing.yaml"}, r"missing.yaml \(flag --config\): No such file"),
        ({"env_file": "missing.env"}, r"missing.env \(flag --env-file\): No such file"),
        ({"env_file": "."}, "Is a directory"),
        ({"config": "."}, "Is a directory"),
        ({"config": "a\0b"}, "cannot read"),
        ({"config": "latin1"}, "not UTF-8"),
        ({"config": "/dev/zero"}, "larger than 16 MiB"),
        ({"env_file": "broken.env"}, r"broken.env: line 1 cannot be read"),
        ({"config": ""}, "--config needs a value"),
        ({"profile": ""}, "--profile needs a value"),
        ({"profile": "nope"}, "no configuration file: no profile 'nope'; there are: none"),
        ({"region": ""}, "flag --region: must not be empty"),
        ({"endpoints": ","}, "flag --endpoints: names no endpoint"),
        ({"endpoints": "node1:9000"}, "flag --endpoints: bad endpoint 'node1:9000': write http"),
        ({"retries": "many"}, "flag --retries: 'many' is not a whole number"),
        ({"strategy": "random"}, "flag --strategy: 'random' is unknown; choose one of round_robin"),
        ({"endpoints": "https://a", "ca_bundle": "none.pem"}, r"flag --ca-bundle: cannot read .*none.pem"),
    ],
)
def test_what_the_user_named_must_be_right(place: Place, flags: dict[str, object], match: str) -> None:
    """One line that names the flag or the file."""
    (place.cwd / "latin1").write_bytes(b"region: \xe9")
    place.write("here/broken.env", "what is this\n")

    with pytest.raises(ConfigError, match=match) as caught:
        place.load(**flags)

    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("variable", "value", "match"),
    [
        ("LB_MAX_RETRIES", "abc", "environment LB_MAX_RETRIES: 'abc' is not a whole number"),
        ("LB_REQUEST_TIMEOUT", "soon", "environment LB_REQUEST_TIMEOUT: 'soon' is not a number of seconds"),
        ("LB_STRATEGY", "weighted", "environment LB_STRATEGY: 'weighted' is unknown"),
        ("S3POOL_INSECURE_TLS", "maybe", "environment S3POOL_INSECURE_TLS: 'maybe' is neither true nor false"),
        ("S3POOL_BWLIMIT", "fast", "environment S3POOL_BWLIMIT: bad rate 'fast'"),
        ("S3POOL_CONFIG", "/nope", r"cannot read /nope \(environment S3POOL_CONFIG\)"),
        ("S3POOL_ENV_FILE", "/nope", r"cannot read /nope \(environment S3POOL_ENV_FILE\)"),
        ("S3POOL_PROFILE", "nope", "no profile 'nope'"),
        ("S3_POOL", "http://user:hush@host", "environment S3_POOL: an endpoint holds no user or password"),
        ("AWS_SECRET_ACCESS_KEY", "hush\nhush", "environment AWS_SECRET_ACCESS_KEY: must be one line"),
    ],
)
def test_wrong_variable_is_named(place: Place, variable: str, value: str, match: str) -> None:
    """Silently ignored numbers were the first s3pool's way."""
    place.environ.update({**PAIR, variable: value})

    with pytest.raises(ConfigError, match=match) as caught:
        place.load()

    assert "hush" not in caught.value.message


def test_overridden_wrong_variable_is_in_nobodys_way(place: Place) -> None:
    """Only the value that counts is read."""
    place.environ["LB_MAX_RETRIES"] = "abc"

    assert 1 == place.load(retries="1").retries


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


@pytest.mark.parametrize(("path", "text"), [(".s3pool/config.yaml", "region: r"), ("here/.env", "AWS_REGION=r")])
def test_file_without_a_secret_may_be_read_by_all(place: Place, path: str, text: str) -> None:
    """A warning about nothing teaches to ignore warnings."""
    place.write(path, text, mode=0o644)

    assert () == place.load().warnings


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


def test_ca_bundle_of_the_file_is_relative_to_it(place: Place) -> None:
    """A job of cron stands somewhere else."""
    bundle = place.write(".s3pool/ca.pem", "")
    place.yaml("ca_bundle: ca.pem\nendpoints: https://a")

    assert str(bundle) == place.load().ca_bundle


def test_ca_bundle_of_the_flag_is_relative_to_the_working_directory(place: Place) -> None:
    """As every path on a command line."""
    bundle = place.write("here/ca.pem", "")

    assert str(bundle) == place.load(endpoints="https://a", ca_bundle="ca.pem").ca_bundle


@pytest.mark.parametrize("flags", [{"endpoints": "http://a"}, {"endpoints": "https://a", "insecure": True}])
def test_ca_bundle_that_nobody_uses_may_be_missing(place: Place, flags: dict[str, object]) -> None:
    """AWS_CA_BUNDLE is often left over from something else."""
    place.environ["AWS_CA_BUNDLE"] = "/nope.pem"

    assert "/nope.pem" == place.load(**flags).ca_bundle


# -- profiles ----------------------------------------------------------------------------------

TWO = "region: common\nprofiles:\n  one: {region: first}\n  two: {bucket: second}\n"


@pytest.mark.parametrize(
    ("expected", "text", "asked"),
    [
        (("one", "first", ""), TWO, "one"),
        (("two", "common", "second"), TWO, "two"),
        (("two", "common", "second"), TWO + "default_profile: two\n", ""),
        (("two", "common", "second"), TWO + "proxy: {default_profile: two}\n", ""),
        (("default", "us-east-1", "b"), "profiles: {default: {bucket: b}, other: {}}", ""),
        (("only", "us-east-1", ""), "profiles: {only: }", ""),
        (("", "common", ""), "region: common\nprofiles: {}", ""),
    ],
)
def test_profile_is_chosen(place: Place, expected: tuple[str, str, str], text: str, asked: str) -> None:
    """What stands at the top is the default of all profiles."""
    place.yaml(text)
    place.environ["S3POOL_PROFILE"] = asked

    config = place.load()

    assert expected == (config.profile, config.region, config.bucket)


def test_profile_of_the_flag_beats_the_environments(place: Place) -> None:
    """As with every option."""
    place.yaml(TWO)
    place.environ["S3POOL_PROFILE"] = "one"

    config = place.load(profile="two")

    assert ("two", "flag --profile") == (config.profile, config.origins["profile"])


def test_profile_that_is_not_there_lists_the_names(place: Place) -> None:
    """The right one is among them."""
    file = place.yaml(TWO)

    with pytest.raises(ConfigError) as caught:
        place.load(profile="three")

    assert f"{file}: no profile 'three'; there are: one, two" == caught.value.message


def test_several_profiles_without_a_default_are_an_error(place: Place) -> None:
    """The first s3pool took a random one."""
    place.yaml(TWO)

    with pytest.raises(ConfigError, match=r"several profiles \(one, two\) and no default_profile"):
        place.load()


def test_sections_of_a_profile_merge_key_by_key(place: Place) -> None:
    """A profile changes one number of a section and keeps the rest."""
    place.yaml(
        "load_balancer: {max_retries: 1, strategy: power_of_two}\nproxy: {listen: ':1', backlog: 5}\n"
        "profiles: {p: {load_balancer: {max_retries: 2}, proxy: {listen: ':2'}}}"
    )

    config = place.load()

    assert (2, "power_of_two", {"listen": ":2", "backlog": 5}) == (config.retries, config.strategy, config.proxy)


@pytest.mark.parametrize("source", ["environment", "dotenv"])
def test_proxys_address_has_a_variable(place: Place, source: str) -> None:
    """The first s3pool read PROXY_LISTEN."""
    place.yaml("proxy: {listen: ':1'}")
    if source == "dotenv":
        place.dotenv("PROXY_LISTEN=:2")
    else:
        place.environ["PROXY_LISTEN"] = ":2"

    assert {"listen": ":2"} == place.load().proxy


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
    return load_profile(name, flags, environ=place.environ, cwd=str(place.cwd), home=str(place.home))


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
