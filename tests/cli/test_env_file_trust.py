"""A `.env` that lies in the working directory may be somebody else's: it never meets the user's own keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3

KEYS = f"AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY={SECRET_KEY}\n"
NOBODY = {"S3_POOL": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
ONLY_KEYS = {"S3_POOL": ""}
KEYS_FILE = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
OTHER_USER = 12345
PLACES = {
    "S3_POOL": "S3_POOL={url}",
    "S3POOL_ENDPOINTS": "S3POOL_ENDPOINTS={url}",
    "AWS_ENDPOINT_URL": "AWS_ENDPOINT_URL={url}",
}


@pytest.fixture
def filled(fake: FakeS3) -> FakeS3:
    """Return a store with one object."""
    fake.store.add("b", "k", b"1")
    return fake


def write(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def put_keys(tmp_path: Path, where: str, fake: FakeS3) -> dict[str, str]:
    """Put the user's keys into a source of their own; give the environment."""
    if where == "environment":
        return ONLY_KEYS
    if where == "AWS's file":
        write(tmp_path / ".aws" / "credentials", KEYS_FILE)
    elif where == "configuration":
        text = f"access_key: {ACCESS_KEY}\nsecret_key: {SECRET_KEY}\nendpoints: {fake.endpoints[1]}\n"
        write(tmp_path / ".s3pool" / "config.yaml", text)
    return NOBODY


@pytest.mark.parametrize("where", ["environment", "AWS's file", "configuration"])
@pytest.mark.parametrize("variable", list(PLACES))
def test_endpoints_do_not_meet_keys_from_elsewhere(
    filled: FakeS3, call: Call, tmp_path: Path, variable: str, where: str
) -> None:
    """Uploads that are made with the user's keys would go to somebody else."""
    env = put_keys(tmp_path, where, filled)
    write(tmp_path / ".env", PLACES[variable].format(url=filled.endpoints[0]))

    result = call("ls", "s3/b", env=env)

    assert (2, "") == (result.code, result.out)
    assert 1 == len(result.err.splitlines())
    assert f"{tmp_path}/.env: {variable}" in result.err
    assert f"--env-file {tmp_path}/.env" in result.err
    assert [] == filled.requests


@pytest.mark.parametrize(
    "line",
    [
        *("S3POOL_INSECURE_TLS=true", "AWS_CA_BUNDLE=ca.pem", "S3POOL_CONFIG=c.yaml"),
        *("S3POOL_RESOLVER=127.0.0.9", "S3POOL_HTTP_PROXY=http://127.0.0.9"),
    ],
)
def test_tls_settings_and_configuration_do_not_meet_keys_from_elsewhere(
    filled: FakeS3, call: Call, tmp_path: Path, line: str
) -> None:
    """Each of them decides who sees what the keys sign."""
    write(tmp_path / "c.yaml", "workers: 1\n")
    write(tmp_path / "ca.pem", "")
    write(tmp_path / ".env", line)

    result = call("ls", "s3/b")

    assert 2 == result.code
    assert line.partition("=")[0] in result.err
    assert f"--env-file {tmp_path}/.env" in result.err
    assert [] == filled.requests


@pytest.mark.parametrize(
    "line", ["AWS_SHARED_CREDENTIALS_FILE=.aws/credentials", "AWS_PROFILE=default", "S3POOL_PROFILE=default"]
)
def test_naming_the_users_own_keys_is_not_having_them(filled: FakeS3, call: Call, tmp_path: Path, line: str) -> None:
    """A file that leads to them holds none itself."""
    write(tmp_path / ".aws" / "credentials", KEYS_FILE)
    write(tmp_path / ".env", f"S3_POOL={filled.endpoints[0]}\n{line}\n")

    assert 2 == call("ls", "s3/b", env=NOBODY).code
    assert [] == filled.requests


def test_configuration_that_it_names_keeps_its_own_keys(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """There endpoints and keys are of one source."""
    text = f"endpoints: {filled.endpoints[0]}\naccess_key: {ACCESS_KEY}\nsecret_key: {SECRET_KEY}\n"
    write(tmp_path / "c.yaml", text)
    write(tmp_path / ".env", "S3POOL_CONFIG=c.yaml\n")

    assert 0 == call("ls", "s3/b", env=NOBODY).code


def test_profile_that_it_chooses_does_not_meet_keys_from_elsewhere(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """The pool of another profile may be nobody's that the keys are for."""
    text = f"profiles: {{other: {{endpoints: '{filled.endpoints[0]}'}}, mine: {{endpoints: '{filled.endpoints[1]}'}}}}"
    write(tmp_path / ".s3pool" / "config.yaml", text)
    write(tmp_path / ".env", "S3POOL_PROFILE=other\n")

    result = call("ls", "s3/b", env=ONLY_KEYS)

    assert 2 == result.code
    assert "profiles.other.endpoints" in result.err


def test_proxy_does_not_listen_where_it_says_with_keys_from_elsewhere(
    filled: FakeS3, call: Call, tmp_path: Path
) -> None:
    """It would open the user's pool to a network."""
    write(tmp_path / ".env", "PROXY_LISTEN=0.0.0.0:0\n")

    result = call("proxy", "--auth", "open")

    assert 2 == result.code
    assert "PROXY_LISTEN" in result.err
    assert f"--env-file {tmp_path}/.env" in result.err
    assert 0 == call("ls", "s3/b").code


def test_endpoints_and_keys_of_one_file_are_told_once(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """It decides where bytes go: that is worth a line, the first time."""
    write(tmp_path / ".env", f"S3_POOL={filled.endpoints[0]}\n{KEYS}")

    first, second = call("ls", "s3/b", env=NOBODY), call("ls", "s3/b", env=NOBODY)
    write(tmp_path / ".env", f"S3_POOL={filled.endpoints[1]}\n{KEYS}")
    changed = call("ls", "s3/b", env=NOBODY)

    line = "s3pool: the endpoints {} come from {}\n"
    assert (0, line.format(filled.endpoints[0], f"{tmp_path}/.env: S3_POOL")) == (first.code, first.err)
    assert (0, "") == (second.code, second.err)
    assert (0, line.format(filled.endpoints[1], f"{tmp_path}/.env: S3_POOL")) == (changed.code, changed.err)


def test_configuration_shows_where_endpoints_come_from(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """As of every other value."""
    write(tmp_path / ".env", f"S3_POOL={filled.endpoints[0]}\n{KEYS}")

    rows = {record["option"]: record for record in call("config", "--json", env=NOBODY).records}

    assert f"{tmp_path}/.env: S3_POOL" == rows["endpoints"]["origin"]
    assert (f"{tmp_path}/.env", "working directory") == (rows["env_file"]["value"], rows["env_file"]["origin"])


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_file_that_is_named_is_trusted(filled: FakeS3, call: Call, tmp_path: Path, how: str) -> None:
    """Who names it has looked at it."""
    write(tmp_path / ".env", f"S3_POOL={filled.endpoints[0]}\n")
    tmp_path.chmod(0o777)
    words, env = (("--env-file", ".env"), {}) if how == "flag" else ((), {"S3POOL_ENV_FILE": ".env"})

    result = call(*words, "ls", "s3/b", env={**ONLY_KEYS, **env})

    assert (0, "") == (result.code, result.err)


def test_unsigned_requests_meet_no_keys(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """Nothing of the user's goes out."""
    write(tmp_path / ".env", f"S3_POOL={filled.endpoints[0]}\n")

    assert 0 == call("--no-sign-request", "ls", "s3/b", env=ONLY_KEYS).code


def test_other_settings_are_free(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """A bucket, a region or a timeout leads nowhere else."""
    write(tmp_path / ".env", "S3_BUCKET=b\nAWS_REGION=RegionOne\nLB_REQUEST_TIMEOUT=9\nS3POOL_INSECURE_TLS=no\n")

    assert (0, "") == (call("ls", "s3/b").code, call("ls", "s3/b").err)


@pytest.mark.parametrize("text", ["${AWS_SECRET_ACCESS_KEY}", "$(id)", "a/b", "a b", "ä", "x" * 65])
@pytest.mark.parametrize("named", [(), ("--env-file", ".env")])
def test_region_is_a_plain_word(filled: FakeS3, call: Call, tmp_path: Path, text: str, named: tuple[str, ...]) -> None:
    """Every request sends it in clear; nothing in the file is replaced by another value."""
    write(tmp_path / ".env", f"AWS_REGION='{text}'\n")

    result = call(*named, "ls", "s3/b")

    assert 2 == result.code
    assert "AWS_REGION" in result.err
    assert SECRET_KEY not in result.err
    assert [] == filled.requests


def test_values_are_taken_as_they_stand(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """No name in them is looked up."""
    write(tmp_path / ".env", "S3_BUCKET=${HOME}\n")

    rows = {record["option"]: record["value"] for record in call("config", "--json").records}

    assert "${HOME}" == rows["bucket"]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o707])
def test_file_in_a_directory_that_others_write_to_is_not_read(
    filled: FakeS3, call: Call, tmp_path: Path, mode: int
) -> None:
    """They may have put it there."""
    write(tmp_path / ".env", f"S3_POOL=http://127.0.0.1:9\n{KEYS}")
    tmp_path.chmod(mode)

    result = call("ls", "s3/b")
    shown = {record["option"]: record for record in call("config", "--json").records}["env_file"]

    assert 0 == result.code
    assert f"s3pool: warning: {tmp_path}/.env is not read: others may write to {tmp_path}" in result.err
    assert f"--env-file {tmp_path}/.env" in result.err
    assert ("", "not read: ") == (shown["value"], shown["origin"][:10])


def test_file_that_others_write_to_is_not_read(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """Whatever the directory."""
    write(tmp_path / ".env", "S3_BUCKET=theirs\n").chmod(0o666)

    result = call("ls", "s3/b")

    assert (0, True) == (result.code, f"others may write to {tmp_path}/.env" in result.err)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("part", [".env", "."])
def test_what_another_user_owns_is_not_read(filled: FakeS3, call: Call, tmp_path: Path, part: str) -> None:
    """Neither the file nor what lies in another user's directory."""
    write(tmp_path / ".env", f"S3_POOL=http://127.0.0.1:9\n{KEYS}")
    os.chown(tmp_path / part, OTHER_USER, -1)

    result = call("ls", "s3/b")

    assert 0 == result.code
    assert "another user owns" in result.err


def test_link_into_a_directory_that_others_write_to_is_not_followed(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """What counts is where the file lies."""
    write(tmp_path / "open" / "env", f"S3_POOL=http://127.0.0.1:9\n{KEYS}")
    (tmp_path / "open").chmod(0o777)
    (tmp_path / ".env").symlink_to("open/env")

    result = call("ls", "s3/b")

    assert (0, True) == (result.code, "is not read" in result.err)
