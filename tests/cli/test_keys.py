"""Keys from all that AWS's tools know: files, programs, roles, web identities, SSO, containers, instances."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, Delay, FakeS3
from tests.support.fake_s3 import Call as FakeCall
from tests.support.key_services import KeyServices, iso

NOBODY = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
BASE = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
SSO = "sso_account_id = 1234\nsso_role_name = reader\nsso_region = eu-1\n"
LOGIN_URL = "https://login.example/start"


@pytest.fixture
def services(fake: FakeS3) -> Iterator[KeyServices]:
    """Give a store that lets in one fixed pair, and who was given temporary keys."""
    fake.secrets[ACCESS_KEY] = SECRET_KEY
    fake.store.add("b", "k", b"content")
    with KeyServices(fake.secrets) as services:
        yield services


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write files below the home directory, for its owner alone."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


def program(pair: str) -> str:
    """Give the command of a credential_process."""
    return f"""{sys.executable} -c 'print("{pair}".replace("~", chr(34)))'"""


PRINTED = f"{{~Version~: 1, ~AccessKeyId~: ~{ACCESS_KEY}~, ~SecretAccessKey~: ~{SECRET_KEY}~}}"
LOGIN = {"accessToken": "bearer", "expiresAt": iso(time.time() + 7200)}
OLD_LOGIN = {"expiresAt": "2020-01-01T00:00:00UTC", "refreshToken": "r", "clientId": "c", "clientSecret": "s"}
ROLE = "[default]\nrole_arn = arn:r\nsource_profile = base\nrole_session_name = me\n"
STS = "[services all]\nsts =\n  endpoint_url = {url}\n"
# By name: AWS's config file, the environment, and what some of the requests must have held.
CASES: dict[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
    "process": (f"[default]\ncredential_process = {program(PRINTED)}\n", {}, {}),
    "role": (
        f"{ROLE}external_id = x\nduration_seconds = 900\nservices = all\n[profile base]\n{BASE}{STS}",
        {},
        {"RoleArn": "arn:r", "ExternalId": "x", "DurationSeconds": "900", "RoleSessionName": "me"},
    ),
    "role by its own pair": (
        f"[default]\nrole_arn = arn:r\nsource_profile = default\n{BASE}",
        {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1,{url}"},
        {"Action": "AssumeRole", "RoleSessionName": "s3pool"},
    ),
    "role of the instance": (
        "[default]\nrole_arn = arn:r\ncredential_source = Ec2InstanceMetadata\nendpoint_url = {url}\n",
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "{url}", "AWS_EC2_METADATA_DISABLED": ""},
        {"Action": "AssumeRole"},
    ),
    "web identity": (
        "",
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/jwt", "AWS_ROLE_ARN": "arn:w", "AWS_ENDPOINT_URL_STS": "{url}"},
        {"Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": "the.jwt", "RoleArn": "arn:w"},
    ),
    "web identity of a profile": (
        "[default]\nweb_identity_token_file = {home}/jwt\nrole_arn = arn:p\nservices = all\n" + STS,
        {},
        {"WebIdentityToken": "the.jwt", "RoleArn": "arn:p"},
    ),
    "sso": (
        f"[default]\nsso_session = s\n{SSO}[sso-session s]\nsso_region = eu-1\nsso_start_url = {LOGIN_URL}\n",
        {"AWS_ENDPOINT_URL_SSO": "{url}"},
        {"role_name": "reader", "account_id": "1234"},
    ),
    "sso of the older form": (
        f"[default]\nsso_start_url = {LOGIN_URL}\n{SSO}",
        {"AWS_ENDPOINT_URL_SSO": "{url}", "AWS_ENDPOINT_URL_SSO_OIDC": "{url}"},
        {"refreshToken": "r", "clientSecret": "s", "grantType": "refresh_token"},
    ),
    "container": (
        "",
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/c", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/jwt"},
        {},
    ),
    "instance": ("", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "{url}", "AWS_EC2_METADATA_DISABLED": ""}, {}),
}


def prepare(case: str, services: KeyServices, write: Callable[..., Path], home: Path) -> dict[str, str]:
    """Write the files of a case; give its environment."""
    config, env, _ = CASES[case]
    write(".aws/config", config.replace("{url}", services.url).replace("{home}", str(home)))
    write("jwt", "the.jwt\n")
    for name, login in (("s", LOGIN), (LOGIN_URL, OLD_LOGIN)):
        write(f".aws/sso/cache/{hashlib.sha1(name.encode()).hexdigest()}.json", json.dumps(login))
    return {**NOBODY, **{name: value.format(url=services.url, home=home) for name, value in env.items()}}


@pytest.mark.parametrize("case", list(CASES))
def test_keys_come_from_where_aws_tools_get_them(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    """Who has a profile that works with AWS's tools changes nothing."""
    env = prepare(case, services, write, tmp_path)

    result = call("cat", "s3/b/k", env=env)

    assert (0, b"content") == (result.code, result.stdout), result.err
    words = {name: value for asked in services.asked for name, value in asked.words.items()}
    assert CASES[case][2].items() <= words.items()
    if case != "process":
        assert "token" in fake.requests[-1].headers["x-amz-security-token"]


def test_services_are_asked_as_they_want_it(
    call: Call, services: KeyServices, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Each has a secret of its own that lets in: tokens, the bearer of a login, a signature."""
    for case in ("instance", "container", "role", "sso", "sso of the older form"):
        assert 0 == call("cat", "s3/b/k", env=prepare(case, services, write, tmp_path)).code

    headers = [asked.headers for asked in services.asked]
    assert [None, "imds-token", "imds-token"] == [each.get("x-aws-ec2-metadata-token") for each in headers[:3]]
    assert "21600" == headers[0]["x-aws-ec2-metadata-token-ttl-seconds"]
    assert "the.jwt" == headers[3]["authorization"]
    bearer = "x-amz-sso_bearer_token"
    assert ["bearer", "renewed"] == [each[bearer] for each in headers if bearer in each]
    assert f"Credential={ACCESS_KEY}/" in headers[4]["authorization"]
    assert "/us-east-1/sts/aws4_request" in headers[4]["authorization"]
    kept = json.loads((tmp_path / f".aws/sso/cache/{hashlib.sha1(LOGIN_URL.encode()).hexdigest()}.json").read_text())
    assert ("renewed", "next") == (kept["accessToken"], kept["refreshToken"])


REFUSALS: dict[str, tuple[str, Mapping[str, str], int, str]] = {
    "an instance that nobody set, and that is not there": (
        "",
        {"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"},
        2,
        "no credentials are set: use AWS_ACCESS_KEY_ID",
    ),
    "nothing": ("", {}, 2, "no credentials are set: use AWS_ACCESS_KEY_ID"),
    "mfa": (
        f"[default]\nrole_arn = r\nsource_profile = base\nmfa_serial = m\n[profile base]\n{BASE}",
        {},
        2,
        "s3pool cannot use this profile: it needs a code that a person types (mfa_serial)",
    ),
    "login": ("[default]\nlogin_session = x\n", {}, 2, "it needs a login by the browser (login_session)"),
    "a circle": (
        "[default]\nrole_arn = r\nsource_profile = a\n[profile a]\nrole_arn = s\nsource_profile = default\n",
        {},
        2,
        "source_profile default leads back to itself",
    ),
    "no source": ("[default]\nrole_arn = r\n", {}, 2, "role_arn needs source_profile, credential_source or"),
    "a source without keys": ("[default]\nrole_arn = r\nsource_profile = a\n", {}, 2, "profile a has no keys"),
    "sso in parts": ("[default]\nsso_session = s\n", {}, 2, "[sso-session s]: sso_start_url is missing"),
    "no login": (
        f"[default]\nsso_start_url = https://other\n{SSO}",
        {},
        4,
        "nobody has logged in; run aws sso login --profile default",
    ),
    "services that are not there": ("[default]\nservices = all\n", {}, 2, "there is no section [services all]"),
    "a program that fails": (
        f"[default]\ncredential_process = {sys.executable} -c 'raise SystemExit(\"locked\")'\n",
        {},
        4,
        "ended with 1: locked",
    ),
    "a program that is not there": ("[default]\ncredential_process = /no/such\n", {}, 4, "/no/such: no such file"),
    "a program that prints what is no JSON": (
        "[default]\ncredential_process = /bin/echo hush\n",
        {},
        4,
        "credential_process: the answer is not what was expected",
    ),
    "no token": (
        "",
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such", "AWS_ROLE_ARN": "r"},
        4,
        "cannot get keys by environment AWS_WEB_IDENTITY_TOKEN_FILE: cannot read /no/such",
    ),
    "an STS that is not there": (
        f"[default]\nrole_arn = r\nsource_profile = b\n[profile b]\n{BASE}",
        {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"},
        4,
        "http://127.0.0.1:1: connection refused; --sts-endpoint or AWS_ENDPOINT_URL_STS says where STS is",
    ),
    "a container's service by plain HTTP, elsewhere": (
        "",
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://203.0.113.1/c"},
        4,
        "203.0.113.1 must be asked by https",
    ),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_what_gives_no_keys_is_one_clear_line(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], case: str
) -> None:
    """It names the profile or variable, what happened, and what to do; the store is not asked."""
    config, env, code, words = REFUSALS[case]
    write(".aws/config", config)

    result = call("cat", "s3/b/k", env={**NOBODY, **env})

    assert (code, 1, "") == (result.code, len(result.err.splitlines()), result.out), result.err
    assert words in result.err
    assert "hush" not in result.err
    assert [] == fake.requests


def test_sts_that_refuses_is_quoted(
    call: Call, services: KeyServices, write: Callable[..., Path], tmp_path: Path
) -> None:
    """The reason is STS's own."""
    services.refuses = 403

    result = call("cat", "s3/b/k", env=prepare("web identity", services, write, tmp_path))

    assert (4, 1) == (result.code, len(result.err.splitlines()))
    assert f"{services.url} refused: 403 AccessDenied no such luck" in result.err


# -- keys that end -------------------------------------------------------------------------


def test_keys_are_renewed_once_while_a_run_goes_on(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Sixteen workers that find the keys at their end cause one renewal, and fail nothing."""
    services.life_s = 4.0
    for number in range(64):
        write(f"tree/{number}", str(number))
    fake.fault(Delay(0.25), times=64)
    env = prepare("web identity", services, write, tmp_path)
    started = time.monotonic()

    result = call("cp", "-r", "tree", "s3/b/tree/", "--workers=4", env=env)

    assert 0 == result.code, result.err
    assert 64 == len([key for key in fake.store.bodies("b") if key.startswith("tree/")])
    assert 2 <= len(services.asked) <= 2 + (time.monotonic() - started) / 2


@pytest.mark.parametrize("name", [".aws/credentials", ".s3pool/config.yaml"])
def test_a_changed_file_is_read_again_when_keys_are_refused(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], name: str
) -> None:
    """A key that was exchanged under a run is nothing that the run fails of."""
    forms = {
        ".aws/credentials": "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        ".s3pool/config.yaml": "access_key: {}\nsecret_key: {}\n",
    }
    write(name, forms[name].format("OLDKEY", "old-secret"))
    fake.secrets["OLDKEY"] = "old-secret"

    def exchange(_seen: object) -> None:
        del fake.secrets["OLDKEY"]
        write(name, forms[name].format(ACCESS_KEY, SECRET_KEY))

    fake.fault(FakeCall(exchange))
    result = call("cat", "s3/b/k", "s3/b/k", env=NOBODY)

    assert (0, b"contentcontent") == (result.code, result.stdout), result.err


# -- endpoints of AWS's config file -----------------------------------------------------------

PROFILE = "[profile p]\nendpoint_url = {bad}\nservices = all\n[services all]\ns3 =\n    endpoint_url = {url}\n"
ENDPOINTS: dict[str, tuple[str, Mapping[str, str], int]] = {
    "of the profile": ("[profile p]\nendpoint_url = {url}\n", {}, 0),
    "of the service": (PROFILE, {}, 0),
    "of the service within the profile": ("[profile p]\ns3 =\n  endpoint_url = {url}\n", {}, 0),
    "a variable comes first": (PROFILE.replace("{url}", "{bad}"), {"AWS_ENDPOINT_URL_S3": "{url}"}, 0),
    "ignored by a variable": (
        "[profile p]\nendpoint_url = {url}\n",
        {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_ENDPOINT_URL": "{url}"},
        2,
    ),
    "ignored by the profile": ("[profile p]\nendpoint_url = {url}\nignore_configured_endpoint_urls = true\n", {}, 2),
    "of another profile": ("[profile q]\nendpoint_url = {url}\n[profile p]\nregion = r\n", {}, 2),
}


@pytest.mark.parametrize("case", list(ENDPOINTS))
@pytest.mark.parametrize("by", ["AWS_PROFILE", "--profile"])
def test_endpoints_come_from_awss_config_file(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], case: str, by: str
) -> None:
    """In the order of AWS's own tools."""
    text, env, code = ENDPOINTS[case]
    words = {"url": fake.endpoints[0], "bad": "http://127.0.0.1:1"}
    write(".aws/config", text.format(**words))
    write(".aws/credentials", f"[p]\n{BASE}")
    flags, named = (("--profile", "p"), {}) if by == "--profile" else ((), {"AWS_PROFILE": "p"})

    result = call(
        "cat",
        "s3/b/k",
        *flags,
        env={**NOBODY, "S3_POOL": "", **named, **{n: v.format(**words) for n, v in env.items()}},
    )

    assert code == result.code, result.err
    assert code == 0 or "no endpoint is set" in result.err


# -- trust ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("AWS_ENDPOINT_URL_STS={url}", "decides on sts_endpoint, but access_key is of another source"),
        ("S3_POOL={pool}", "decides on endpoints, but access_key is of another source"),
    ],
)
def test_a_found_env_file_does_not_meet_keys_of_a_role(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], line: str, words: str, tmp_path: Path
) -> None:
    """Neither the token of a web identity nor what it gives goes where a stranger's file says."""
    env = prepare("web identity", services, write, tmp_path)
    del env["AWS_ENDPOINT_URL_STS"]
    write(".env", line.format(url=services.url, pool=fake.endpoints[0]))

    result = call("cat", "s3/b/k", env={**env, **({"S3_POOL": ""} if "S3_POOL" in line else {})})

    assert (2, True) == (result.code, words in result.err)
    assert ([], []) == (services.asked, fake.requests)


def test_a_found_env_file_runs_no_program_and_names_no_service(
    call: Call, fake: FakeS3, services: KeyServices, write: Callable[..., Path], tmp_path: Path
) -> None:
    """A directory that was cloned must not run what it likes, nor get a token sent."""
    proof = tmp_path / "ran"
    write("evil", f"[default]\ncredential_process = /bin/touch {proof}\n")
    write(".env", f"AWS_CONFIG_FILE={tmp_path}/evil\n")

    ran = call("cat", "s3/b/k", env=NOBODY)
    write(".env", f"AWS_CONTAINER_CREDENTIALS_FULL_URI={services.url}/c\n")
    asked = call("cat", "s3/b/k", env=NOBODY)
    named = call("cat", "s3/b/k", "--env-file", str(tmp_path / ".env"), env=NOBODY)

    assert (2, True, False) == (ran.code, "AWS_CONFIG_FILE names a file that tells how" in ran.err, proof.exists())
    assert (2, True) == (asked.code, "no credentials are set" in asked.err)
    assert (0, b"content") == (named.code, named.stdout), named.err
    assert 1 == len(services.asked)


def test_config_tells_where_keys_come_from_and_asks_nobody(
    call: Call, services: KeyServices, write: Callable[..., Path], tmp_path: Path
) -> None:
    """It is what one looks at when something does not work."""
    env = prepare("web identity", services, write, tmp_path)

    result = call("config", env=env)

    line = next(line for line in result.lines if line.startswith("access_key"))
    assert line.split(None, 2) == ["access_key", "-", "environment AWS_WEB_IDENTITY_TOKEN_FILE"]
    assert (0, "", []) == (result.code, result.err, services.asked)
