"""Settings of buckets and objects: what the commands say of them, and what boto3 then reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.cli.conftest import Call, boto_of
from tests.support.fake_s3 import Answer, FakeS3, Fault, Reply
from tests.support.fake_s3.wire import Exchange
from tests.support.real_servers import MinioCluster
from tests.support.run_cli import CliRunner

RULES = '{"Rules":[{"ID":"old","Status":"Enabled","Filter":{"Prefix":"p/"},"Expiration":{"Days":9}}]}'
CORS = (
    "<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"
    "<MaxAgeSeconds>10</MaxAgeSeconds></CORSRule></CORSConfiguration>"
)
POLICY = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},'
    '"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::BUCKET/open/*"]}]}'
)


UNASKED = ("ResponseMetadata", "MFADelete", "VersionId", "TransitionDefaultMinimumObjectSize")


class Store(NamedTuple):
    """A server, what it is known to lack, and boto3 on it."""

    name: str
    environment: Mapping[str, str]
    boto: Any

    def read(self, bucket: str, how: str, key: str = "") -> Any:
        """Return what boto3 reads: of the call, its bare answer; None where nothing is set."""
        place = {"Bucket": bucket, **({"Key": key} if key else {})}
        try:
            answer = getattr(self.boto, how)(**place)
        except ClientError as exc:
            return None if exc.response["ResponseMetadata"]["HTTPStatusCode"] == 404 else exc
        answer.get("TagSet", []).sort(key=lambda tag: tag["Key"])  # whose order says nothing
        return {name: value for name, value in answer.items() if name not in UNASKED}


class Step(NamedTuple):
    """Words, with B for the bucket, the lines they print, and what boto3 reads then: call, key, answer."""

    words: str
    lines: tuple[str, ...]
    call: str = ""
    key: str = ""
    answer: Any = None
    stdin: str = ""


TAGS = [
    Step("tag ls B/k B", ("B/k: none", "B: none")),
    Step(
        "tag set B/k c=x:y b=2 a=1",
        ("Tags set: B/k",),
        "get_object_tagging",
        "k",
        {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}, {"Key": "c", "Value": "x:y"}]},
    ),
    Step("tag list B/k", ("B/k: a=1&b=2&c=x:y",)),
    Step("tag set B x=1", ("Tags set: B",), "get_bucket_tagging", "", {"TagSet": [{"Key": "x", "Value": "1"}]}),
    Step("tag rm B/k", ("Tags removed: B/k",), "get_object_tagging", "k", {"TagSet": []}),
    Step("tag set B -r all=1", ("Tags set: B/k", "Tags set: B/k2")),
    Step("tag ls -r B", ("B/k: all=1", "B/k2: all=1")),
    Step("tag remove B", ("Tags removed: B",), "get_bucket_tagging"),
]
VERSIONS = [
    Step("version show B", ("B: Off",), "get_bucket_versioning", "", {}),
    Step("version enable B", ("Versions enabled: B",), "get_bucket_versioning", "", {"Status": "Enabled"}),
    Step("version suspend B", ("Versions suspended: B",), "get_bucket_versioning", "", {"Status": "Suspended"}),
    Step("version info B", ("B: Suspended",)),
]
LOCKS = [
    Step("retention show B B/k", ("B: none", "B/k: none")),
    Step(
        "retention set governance 30d B --default",
        ("Retention set: B",),
        "get_object_lock_configuration",
        "",
        {
            "ObjectLockConfiguration": {
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}},
            }
        },
    ),
    Step("retention info B", ("B: GOVERNANCE 30 days",)),
    Step("retention clear B", ("Retention cleared: B",)),
    Step("retention show B", ("B: none",)),
    Step("retention set GOVERNANCE 2099-01-01 B/k", ("Retention set: B/k",)),
    Step("retention show B/k", ("B/k: GOVERNANCE until 2099-01-01T00:00:00.000Z",)),
    Step("legalhold show B/k", ("B/k: OFF",)),
    Step("legalhold on B/k", ("Legal hold on: B/k",), "get_object_legal_hold", "k", {"LegalHold": {"Status": "ON"}}),
    Step("legalhold info B/k", ("B/k: ON",)),
    Step("legalhold off B/k", ("Legal hold off: B/k",), "get_object_legal_hold", "k", {"LegalHold": {"Status": "OFF"}}),
]
POLICIES = [
    Step("policy show B", ("B: none",), "get_bucket_policy"),
    Step("policy set B policy.json", ("Policy set: B",)),
    Step("anonymous get B B/open/", ("B: custom", "B/open/: download")),
    Step("anonymous public B/open/", ("Access set: B/open/",)),
    Step(
        "anonymous get B/open/ B/open/deeper/ B/other/", ("B/open/: public", "B/open/deeper/: public", "B/other/: none")
    ),
    Step("anonymous set none B/open/", ("Access set: B/open/",), "get_bucket_policy"),
    Step("anonymous set upload B", ("Access set: B",)),
    Step("anonymous get B", ("B: upload",)),
    Step("policy rm B", ("Policy removed: B",), "get_bucket_policy"),
]
LIFECYCLES = [
    Step("ilm ls B", ("B: none",), "get_bucket_lifecycle_configuration"),
    Step("ilm import B", ("Rules imported: B",), stdin=RULES),
    Step("ilm rule add B --expire-days 3 --prefix logs/ --id new", ("Rule added: B",)),
    Step(
        "ilm ls B",
        (
            "B: new  Enabled  Prefix=logs/  Expiration(Days=3)",
            "B: old  Enabled  Prefix=p/  Expiration(Days=9)",
        ),
    ),
    Step("ilm rm B --id new", ("Rules removed: B",)),
    Step(
        "ilm ls B",
        ("B: old  Enabled  Prefix=p/  Expiration(Days=9)",),
        "get_bucket_lifecycle_configuration",
        "",
        json.loads(RULES),
    ),
    Step("ilm rm B --all --force", ("Rules removed: B",), "get_bucket_lifecycle_configuration"),
]
CORSES = [
    Step("cors show B", ("B: none",), "get_bucket_cors"),
    Step(
        "cors set B cors.xml",
        ("CORS rules set: B",),
        "get_bucket_cors",
        "",
        {"CORSRules": [{"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "MaxAgeSeconds": 10}]},
    ),
    Step("cors remove B", ("CORS rules removed: B",), "get_bucket_cors"),
]
ENCRYPTIONS = [
    Step("encrypt info B", ("B: none",), "get_bucket_encryption"),
    Step("encrypt set sse-s3 B", ("Encryption set: B",)),
    Step("encrypt show B", ("B: AES256",)),
    Step("encrypt clear B", ("Encryption removed: B",), "get_bucket_encryption"),
]
FAMILIES = {
    "tag": TAGS,
    "version": VERSIONS,
    "lock": LOCKS,
    "policy": POLICIES,
    "ilm": LIFECYCLES,
    "cors": CORSES,
    "encrypt": ENCRYPTIONS,
}
# What a server is without: the words of its refusal follow "this server does not know".
LACKS = {
    "moto": {"lock": "the retention of objects"},
    "rgw": {"encrypt": "default encryption"},
    "minio": {"cors": "CORS rules", "encrypt": "default encryption"},
    "versitygw": {"ilm": "lifecycle rules", "encrypt": "default encryption"},
    "seaweedfs": {},
    "garage": {},
}


@pytest.fixture(
    scope="module", params=["moto", *(pytest.param(name, marks=pytest.mark.live) for name in ("rgw", "minio"))]
)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Give each server in turn."""
    if request.param != "minio":
        fleet = request.getfixturevalue(request.param)
        name = os.environ.get("S3POOL_LIVE_SERVER", "rgw") if request.param == "rgw" else request.param
        yield Store(name, fleet.environment, boto_of(fleet.environment))
        return
    if MinioCluster.find() is None:
        pytest.skip(MinioCluster.missing())
    with MinioCluster(4) as cluster:
        environment = {
            "S3_POOL": ",".join(cluster.endpoints),
            "AWS_ACCESS_KEY_ID": cluster.access_key,
            "AWS_SECRET_ACCESS_KEY": cluster.secret_key,
        }
        yield Store("minio", environment, boto_of(environment))


@pytest.fixture
def run(store: Store, run_here: CliRunner) -> Callable[..., Any]:
    """Run a command line on the server, where two documents lie."""
    return lambda *words, stdin="": run_here(*words, env=store.environment, stdin=stdin.encode())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_set_is_what_boto3_reads(
    store: Store, run: Callable[..., Any], run_here: CliRunner, bucket_name: str, family: str
) -> None:
    """Each verb on each server; what a server does not know it says in one line."""
    run("mb", f"s3/{bucket_name}", *(["--lock"] if family == "lock" else []))
    for key in ("k", "k2"):
        store.boto.put_object(Bucket=bucket_name, Key=key, Body=b"content")
    (run_here.home / "policy.json").write_text(POLICY.replace("BUCKET", bucket_name))
    (run_here.home / "cors.xml").write_text(CORS)

    for step in FAMILIES[family]:
        result = run(*[_named(word, bucket_name) for word in step.words.split()], stdin=step.stdin)
        if (lacked := LACKS[store.name].get(family)) and result.code:
            assert 1 == result.code, result.err
            assert f": this server does not know {lacked} (" in result.err
            assert 1 == result.err.count("\n")
            return
        assert 0 == result.code, (step.words, result.err)
        assert sorted(_named(line, bucket_name) for line in step.lines) == sorted(result.lines), step.words
        if step.call:
            assert step.answer == store.read(bucket_name, step.call, step.key), step.words


def _named(text: str, bucket: str) -> str:
    return re.sub(r"\bB\b", f"s3/{bucket}", text)


def test_json_and_dry_run(store: Store, run: Callable[..., Any], bucket_name: str) -> None:
    """The record has the setting's own words; a rehearsal changes nothing."""
    run("mb", f"s3/{bucket_name}")
    rehearsed = run("tag", "set", f"s3/{bucket_name}", "a=1", "--dry-run")
    shown = run("tag", "ls", f"s3/{bucket_name}", "--json")

    assert [f"(dry run) Tags set: s3/{bucket_name}"] == rehearsed.lines
    assert [{"type": "tag", "action": "ls", "url": f"s3/{bucket_name}", "value": {}}] == shown.records


def test_what_is_not_archived_is_not_restored(store: Store, run: Callable[..., Any], bucket_name: str) -> None:
    """One line, whatever the server calls it."""
    run("mb", f"s3/{bucket_name}")
    store.boto.put_object(Bucket=bucket_name, Key="k", Body=b"content")

    result = run("restore", f"s3/{bucket_name}/k")

    assert (1, "", 1) == (result.code, result.out, result.err.count("\n"))
    assert b"content" == store.boto.get_object(Bucket=bucket_name, Key="k")["Body"].read()


def test_rule_that_a_server_makes_another_of_is_undone(store: Store, run: Callable[..., Any], bucket_name: str) -> None:
    """RGW 16 forgets the prefix beside tags and would delete too much; moto forgets how many versions to keep."""
    run("mb", f"s3/{bucket_name}")
    run("ilm", "import", f"s3/{bucket_name}", stdin=RULES)
    flags = ("--expire-days", "3", "--prefix", "logs/", "--tags", "a=1&b=2", "--noncurrent-expire-days", "3")

    result = run("ilm", "add", f"s3/{bucket_name}", "--id", "new", *flags, "--noncurrent-expire-newer", "2")

    if store.name not in ("moto", "rgw"):
        assert 0 == result.code
        assert 2 == len(run("ilm", "ls", f"s3/{bucket_name}").lines)
    else:
        assert (1, "") == (result.code, result.out)
        assert "this server does not know all of these lifecycle rules: it made new  Enabled" in result.err
        assert json.loads(RULES) == store.read(bucket_name, "get_bucket_lifecycle_configuration")


# -- what must not happen --------------------------------------------------------------------


class Deaf(Fault):
    """A server that passes over sub-resources: it answers as if there was none."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def receive(self, exchange: Exchange) -> Reply:
        """Answer with an object, or with a listing."""
        return Reply(200, self.body, {"Content-Type": "application/xml"})


@pytest.mark.parametrize(
    ("words", "op"),
    [
        (("legalhold", "on", "s3/bucket/k"), "NotImplemented"),
        (("retention", "set", "GOVERNANCE", "1d", "s3/bucket/k"), "NotImplemented"),
        (("tag", "set", "s3/bucket/k", "a=1"), "GetObjectTagging"),
        (("cors", "rm", "s3/bucket"), "NotImplemented"),
        (("policy", "rm", "s3/bucket"), "NotImplemented"),
        (("encrypt", "set", "sse-s3", "s3/bucket"), "NotImplemented"),
    ],
)
@pytest.mark.parametrize("body", [b"the object", b"<ListBucketResult></ListBucketResult>", b"", b"x" * (2 << 20)])
def test_nothing_is_written_where_a_server_may_pass_over_it(
    fake: FakeS3, call: Call, words: tuple[str, ...], op: str, body: bytes
) -> None:
    """There PUT k?tagging would replace the object, and DELETE b?cors remove the bucket."""
    fake.store.add("bucket", "k", b"content")
    fake.fault(Deaf(body), op=op, times=0)

    result = call(*words)

    assert (1, "") == (result.code, result.out)
    assert "this server does not know" in result.err
    assert "was answered with something else" in result.err
    assert not [request.target for request in fake.requests if request.method in ("PUT", "DELETE", "POST")]


@pytest.mark.parametrize(
    "command", ["retention show", "legalhold on", "policy show", "ilm ls", "cors show", "encrypt show"]
)
def test_unknown_settings_are_one_line(fake: FakeS3, call: Call, command: str) -> None:
    """Exit code 1, on stderr."""
    fake.store.add("bucket", "k", b"content")
    result = call(*command.split(), "s3/bucket/k" if command.startswith(("retention", "legalhold")) else "s3/bucket")

    assert (1, "", 1) == (result.code, result.out, result.err.count("\n"))
    assert ": this server does not know " in result.err
    assert ": 501 NotImplemented at http://" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tag", "the following arguments are required: ACTION"),
        ("tag paint s3/b", "tag paint: write ls, set, rm"),
        ("tag set s3/b", "write s3pool tag set PATH K=V..."),
        ("tag set s3/b novalue", "novalue is not K=V"),
        ("tag ls", "write s3pool tag ls PATH"),
        ("tag ls s3", "s3 names no bucket"),
        ("version enable s3/b/k", "s3/b/k has a key; version takes s3/BUCKET"),
        ("legalhold on s3/b", "s3/b is a bucket; legalhold takes s3/BUCKET/KEY"),
        ("retention set FOREVER 1d s3/b/k", "FOREVER is no mode of retention"),
        ("retention set GOVERNANCE 1h s3/b", "1h: a bucket keeps its objects for days or years"),
        ("retention set GOVERNANCE soon s3/b/k", "soon"),
        ("retention set GOVERNANCE s3/b/k", "write s3pool retention set MODE TIME PATH"),
        ("retention show --default s3/b/k", "s3/b/k has a key"),
        ("legalhold on s3/b --versions -r --version-id 1", "--version-id is for one object"),
        ("legalhold on s3/b/k --versions", "--versions goes with -r"),
        ("anonymous set sometimes s3/b", "sometimes is no access"),
        ("ilm add s3/b", "ilm add needs what to do"),
        ("ilm add s3/b --transition-days 3", "a transition needs its days and its tier"),
        ("ilm add s3/b --expire-days 3 --tags a", "--tags wants K=V&K=V"),
        ("ilm rm s3/b", "ilm rm needs --id ID, or --all"),
        ("ilm rm s3/b --all", "say that you mean it by --force"),
        ("encrypt set rot13 s3/b", "rot13 is no encryption"),
        ("policy set s3/b bad.json", "bad.json: broken JSON"),
        ("cors set s3/b bad.xml", "bad.xml: the answer is a Tagging, not a CORSConfiguration"),
        ("ilm import s3/b list.json", "list.json: the document is no JSON object"),
        ("ilm import s3/b odd.json", "Days in LifecycleConfiguration is no list"),
    ],
)
def test_bad_words_are_refused_before_anything_is_sent(
    fake: FakeS3, call: Call, tmp_path: Path, words: str, message: str
) -> None:
    """Exit code 2 and one line that says what is meant."""
    for name, text in {"bad.json": "{", "bad.xml": "<Tagging/>", "list.json": "[]", "odd.json": '{"Days":[1]}'}.items():
        (tmp_path / name).write_text(text)
    result = call(*words.split())

    assert (2, "") == (result.code, result.out)
    assert message in result.err
    assert not [request for request in fake.requests if request.method != "GET"]


def test_missing_file_for_a_setting(fake: FakeS3, call: Call) -> None:
    """It is named, and nothing sent."""
    result = call("policy", "set", "s3/bucket", "none.json")

    assert (1, "s3pool: error: cannot read none.json: no such file or directory\n") == (result.code, result.err)
    assert [] == fake.ops()


def test_failures_of_a_tree_are_told_one_by_one(fake: FakeS3, call: Call) -> None:
    """The rest goes on."""
    for key in ("p/a", "p/b", "p/c", "q"):
        fake.store.add("bucket", key, b"content")
    fake.fault(Answer(403, "AccessDenied", "no"), op="PutObjectTagging", key="p/b", times=0)

    result = call("tag", "set", "-r", "s3/bucket/p", "a=1")

    assert (4, ["Tags set: s3/bucket/p/a", "Tags set: s3/bucket/p/c"]) == (result.code, sorted(result.lines))
    assert "s3/bucket/p/b" in result.err
    assert "s3/bucket/q: none" in call("tag", "ls", "s3/bucket/q").out
