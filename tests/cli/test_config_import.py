"""config import: what mc, rclone, s3cmd, s5cmd and AWS's tools are configured for becomes profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Call
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3

MC = {
    "myminio": {"url": "{url}", "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY, "api": "s3v4", "path": "on"},
    "open": {"url": "http://open.example:9000/", "accessKey": "", "secretKey": "", "path": "auto"},
    "gcs": {"url": "https://storage.example", "accessKey": "YOUR-ACCESS-KEY-HERE", "secretKey": "YOUR-SECRET-KEY-HERE"},
}
RCLONE = f"""[ceph]
type = s3
provider = Ceph
access_key_id = {ACCESS_KEY}
secret_access_key = {SECRET_KEY}
endpoint = {{url}}
force_path_style = false
region = eu-1
[drive]
type = drive
"""
S3CMD = f"""[default]
access_key = {ACCESS_KEY}
secret_key = {SECRET_KEY}
host_base = rgw.example:7480
host_bucket = %(bucket)s.rgw.example:7480
use_https = False
bucket_location = US
check_ssl_certificate = False
"""
AWS = "[profile lab]\nendpoint_url = {url}\nregion = eu-2\n[default]\nregion = eu-3\n[services x]\n"
EXPECTED = {
    "myminio": {"endpoints": "{url}", "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "addressing": "path"},
    "open": {"endpoints": "http://open.example:9000", "sign": False},
    "ceph": {
        "endpoints": "{url}",
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "region": "eu-1",
        "addressing": "virtual",
    },
    "s3cmd": {
        "endpoints": "http://rgw.example:7480",
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "addressing": "virtual",
        "insecure": True,
    },
    "lab": {"endpoints": "{url}", "region": "eu-2"},
    "default": {"endpoints": "https://s3.eu-3.amazonaws.com", "region": "eu-3"},
}


@pytest.fixture
def home(tmp_path: Path, fake: FakeS3) -> Path:
    """Give a home with the files of all tools."""
    fake.secrets[ACCESS_KEY] = SECRET_KEY
    fake.store.add("b", "k", b"content")
    url = fake.endpoints[0]
    for name, text in (
        (".mc/config.json", json.dumps({"version": "10", "aliases": MC})),
        (".config/rclone/rclone.conf", RCLONE),
        (".s3cfg", S3CMD),
        (".aws/config", AWS),
        (".aws/credentials", f"[lab]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{url}", url))
        path.chmod(0o600)
    return tmp_path


def profiles_of(home: Path) -> dict[str, object]:
    """Give what the configuration file has."""
    found: dict[str, object] = yaml.safe_load((home / ".s3pool" / "config.yaml").read_text())["profiles"]
    return found


def test_all_that_is_found_becomes_profiles(call: Call, fake: FakeS3, home: Path) -> None:
    """With their words, their keys, and for its owner alone; each works at once."""
    result = call("config", "import")
    again = call("config", "import", "--json")
    reads = [call("cat", f"{name}/b/k", env={"S3_POOL": "http://127.0.0.1:1"}) for name in ("myminio", "lab")]

    expected = json.loads(json.dumps(EXPECTED).replace("{url}", fake.endpoints[0]))
    assert 0 == result.code, result.err
    assert expected == profiles_of(home)
    assert (0o600, 0o700) == (
        (home / ".s3pool" / "config.yaml").stat().st_mode & 0o777,
        (home / ".s3pool").stat().st_mode & 0o777,
    )
    assert f"Profile imported: myminio (mc, {fake.endpoints[0]})" == result.lines[0]
    assert (0, {"unchanged"}) == (again.code, {record["state"] for record in again.records})
    assert [(0, b"content")] * 2 == [(each.code, each.stdout) for each in reads], reads[0].err
    assert SECRET_KEY not in result.out + result.err + again.out


def test_a_rehearsal_writes_nothing(call: Call, home: Path) -> None:
    """It tells what would come."""
    result = call("config", "import", "rclone", "--dry-run")

    assert (0, False) == (result.code, (home / ".s3pool").exists())
    assert ["Profile would be imported: ceph"] == [line.partition(" (")[0] for line in result.lines]


def test_profiles_that_are_there_are_kept(call: Call, fake: FakeS3, home: Path) -> None:
    """What a user has written is not another tool's to change, comments included; --force is."""
    config = home / ".s3pool" / "config.yaml"
    config.parent.mkdir()
    text = (
        "# mine\nworkers: 3\nprofiles:\n    # the old one\n    myminio:\n        endpoints: http://mine:1\n    z: {}\n"
    )
    config.write_text(text)

    kept = call("config", "import", "mc", "--profile", "z")
    first = config.read_text()
    forced = call("config", "import", "mc", "--force", "--profile", "z")

    assert (6, 0) == (kept.code, forced.code), forced.err
    assert f"the profile myminio of {home}/.mc/config.json is left out" in kept.err
    assert "# the old one\n    myminio:\n        endpoints: http://mine:1\n" in first
    assert "Profile replaced: myminio" in forced.out
    assert "# mine\nworkers: 3\nprofiles:" in config.read_text()
    assert [fake.endpoints[0], {}] == [profiles_of(home)["myminio"]["endpoints"], profiles_of(home)["z"]]  # type: ignore[index]


@pytest.mark.parametrize("text", ["", "endpoints: {url}\n", "profiles:\n  one: {endpoints: '{url}'}\n"])
def test_what_is_used_without_a_profile_stays_the_same(call: Call, fake: FakeS3, home: Path, text: str) -> None:
    """A second profile in a file that had one, or none, would otherwise be a question or another pool."""
    config = home / ".s3pool" / "config.yaml"
    config.parent.mkdir()
    config.write_text(text.replace("{url}", fake.endpoints[1]))
    env = {"S3_POOL": fake.endpoints[1] if not text else ""}

    imported = call("config", "import", "mc", env=env)
    result = call("cat", "s3/b/k", env=env)
    shown = call("config", "--json", env=env)

    assert (0, 0, b"content") == (imported.code, result.code, result.stdout), result.err
    found = next(record["value"] for record in shown.records if record["option"] == "endpoints")
    assert fake.endpoints[1] == found


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (".mc/config.json", "[]", "config.json: this is not the form of mc's aliases"),
        (".config/rclone/rclone.conf", "RCLONE_ENCRYPT_V0:\nxx", "rclone.conf is encrypted: rclone config show"),
        (".s3pool/config.yaml", "profiles: {a: {}}\n", "is written in a way that nothing can be added to"),
        (".s3pool/config.yaml", "profiles: [a]\n", "config.yaml: profiles: must be a map of keys, not a list"),
        (".s3pool/config.yaml", "profiles: 5\n", "config.yaml: profiles: must be a map of keys, not"),
    ],
)
def test_files_that_cannot_be_used_are_one_clear_line(call: Call, home: Path, name: str, text: str, words: str) -> None:
    """Nothing is written, and nothing quoted."""
    path = home / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

    result = call("config", "import")

    assert (2, "", 1) == (result.code, result.out, len(result.err.splitlines())), result.err
    assert words in result.err
    assert text == path.read_text()


def test_nothing_to_import_says_where_it_looked(call: Call) -> None:
    """A wrong HOME shows so."""
    result = call("config", "import", "s3cmd")

    assert (2, "s3pool: error: there is nothing to import: looked at ~/.s3cfg\n") == (result.code, result.err)


def test_s5cmd_has_its_endpoint_in_a_variable(call: Call, fake: FakeS3, home: Path) -> None:
    """Its profiles are AWS's."""
    result = call("config", "import", "s5cmd", env={"S3_ENDPOINT_URL": fake.endpoints[1]})

    assert 0 == result.code
    assert fake.endpoints[1] == profiles_of(home)["lab"]["endpoints"]  # type: ignore[index]
