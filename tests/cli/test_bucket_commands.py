"""mb and rb: buckets come and go."""

from __future__ import annotations

import pytest

from s3pool.cli.context import Context
from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3, Fault, Vanish, internal_error
from tests.support.fake_s3.store import Upload


def test_mb_makes_buckets(fake: FakeS3, call: Call) -> None:
    """Several at once, a line for each."""
    result = call("mb", "s3/one", "s3://two")

    assert (0, "Bucket created: s3/one\nBucket created: s3/two\n") == (result.code, result.out)
    assert {"one", "two"} == set(fake.store.buckets)


def test_bare_names_are_buckets_where_only_buckets_are_taken(fake: FakeS3, call: Call) -> None:
    """Nothing else can be meant."""
    made = call("mb", "one")
    removed = call("rb", "one")

    assert ("Bucket created: s3/one\n", "Bucket deleted: s3/one\n") == (made.out, removed.out)


def test_mb_json(call: Call) -> None:
    """The record of an act."""
    records = call("mb", "--json", "s3/one").records

    assert [{"type": "bucket_created", "url": "s3/one", "bucket": "one"}] == records


def test_mb_p_takes_an_existing_bucket(fake: FakeS3, call: Call) -> None:
    """And sees to its versioning, when that is asked for."""
    fake.store.add("one", "k")

    result = call("mb", "-p", "--versioning", "s3/one")

    assert (0, "", "s3pool: s3/one exists\n") == (result.code, result.out, result.err)
    assert "Enabled" == fake.store.buckets["one"].versioning


def test_mb_versioning_and_lock(fake: FakeS3, call: Call) -> None:
    """Both are set at birth."""
    call("mb", "--versioning", "s3/one")
    call("mb", "--lock", "s3/two")

    assert "Enabled" == fake.store.buckets["one"].versioning
    assert fake.store.buckets["two"].lock


def test_mb_dry_run(fake: FakeS3, call: Call) -> None:
    """Nothing is made."""
    result = call("mb", "--dry-run", "s3/one")

    assert "(dry run) Bucket created: s3/one\n" == result.out
    assert {} == fake.store.buckets


@pytest.mark.parametrize("fault", [Vanish(), internal_error(acted=True)], ids=["no answer", "500"])
@pytest.mark.parametrize("again", ["made", "BucketAlreadyOwnedByYou"])
def test_mb_asks_again_after_an_unclear_answer(fake: FakeS3, call: Call, fault: Fault, again: str) -> None:
    """The bucket is there and the caller's own: servers say so by 200 or by 409."""
    fake.fault(fault, op="CreateBucket")
    if again != "made":
        fake.fault(Answer(409, again), op="CreateBucket", nth=2)

    result = call("mb", "s3/one")

    assert (0, "Bucket created: s3/one\n") == (result.code, result.out)
    assert ["CreateBucket"] * 2 == [request.op for request in fake.requests if request.op == "CreateBucket"]
    assert "one" in fake.store.buckets


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ([Vanish(), Answer(409, "BucketAlreadyExists")], "BucketAlreadyExists"),
        ([Answer(409, "BucketAlreadyOwnedByYou")], "BucketAlreadyOwnedByYou"),
        ([Vanish(), Vanish()], "may have been carried out"),
    ],
    ids=["another's", "no doubt", "no answer at all"],
)
def test_mb_takes_no_other_answer_for_success(fake: FakeS3, call: Call, faults: list[Fault], told: str) -> None:
    """Another's bucket is none of the caller's, and one that was there is not created."""
    for nth, fault in enumerate(faults, 1):
        fake.fault(fault, op="CreateBucket", nth=nth)

    result = call("mb", "s3/one")

    assert (1, "") == (result.code, result.out)
    assert told in result.err
    assert len(faults) == len([request for request in fake.requests if request.op == "CreateBucket"])


@pytest.mark.parametrize("fault", [Vanish(), internal_error(acted=True)], ids=["no answer", "500"])
def test_rb_asks_again_after_an_unclear_answer(fake: FakeS3, call: Call, fault: Fault) -> None:
    """A bucket that is missing now was deleted by the first request."""
    call("mb", "s3/one")
    fake.fault(fault, op="DeleteBucket")

    result = call("rb", "s3/one")

    assert (0, "Bucket deleted: s3/one\n") == (result.code, result.out)
    assert {} == fake.store.buckets


@pytest.mark.parametrize("command", ["mb", "rb"])
@pytest.mark.parametrize("operand", ["s3/one/key", "s3", "./one", "s3/a*b", "-", ".", ""])
def test_only_buckets_are_taken(call: Call, command: str, operand: str) -> None:
    """A key in the path is refused, never dropped: rb s3/b/p must not remove b."""
    assert (2, "") == (call(command, operand).code, call(command, operand).out)


def test_rb_removes_an_empty_bucket(fake: FakeS3, call: Call) -> None:
    """In text and as a record."""
    call("mb", "s3/one", "s3/two")

    assert "Bucket deleted: s3/one\n" == call("rb", "s3/one").out
    assert [{"type": "bucket_deleted", "url": "s3/two", "bucket": "two"}] == call("rb", "--json", "s3/two").records
    assert {} == fake.store.buckets


def test_rb_keeps_what_is_not_empty(fake: FakeS3, call: Call) -> None:
    """And says how it could go."""
    fake.store.add("one", "k")

    result = call("rb", "s3/one")

    assert 1 == result.code
    assert "409 BucketNotEmpty" in result.err
    assert result.err.endswith("; use rb --force to empty it first\n")


def test_rb_of_a_missing_bucket(call: Call) -> None:
    """With and without force."""
    assert 3 == call("rb", "s3/none").code
    assert 3 == call("rb", "--force", "s3/none").code


def test_rb_force_empties_first(fake: FakeS3, call: Call) -> None:
    """Versions, delete markers and uploads as well; without a terminal nobody is asked."""
    call("mb", "s3/one", "--versioning")
    call("pipe", "s3/one/k", stdin=b"1")
    call("pipe", "s3/one/k", stdin=b"2")
    call("find", "s3/one", "--delete")
    fake.store.buckets["one"].uploads["u"] = Upload("u", "k", 0.0, {}, {}, "STANDARD")

    result = call("rb", "--force", "s3/one")

    assert (0, "Bucket deleted: s3/one\n") == (result.code, result.out)
    assert {} == fake.store.buckets


def test_rb_force_dry_run(fake: FakeS3, call: Call) -> None:
    """Everything is still there."""
    fake.store.add("one", "k")

    result = call("rb", "--force", "--dry-run", "s3/one")

    assert "(dry run) Bucket deleted: s3/one\n" == result.out
    assert "s3pool: dry run: 1 objects and versions of s3/one deleted\n" == result.err
    assert ["k"] == list(fake.store.bodies("one"))


def test_rb_dry_run_fails_where_rb_would(fake: FakeS3, call: Call) -> None:
    """A bucket with an object in it would stay."""
    fake.store.add("one", "k")
    fake.store.add("two", "k")
    call("rm", "s3/two/k")

    result = call("rb", "--dry-run", "s3/one", "s3/two")

    assert (1, "(dry run) Bucket deleted: s3/two\n") == (result.code, result.out)
    assert "s3pool: error: DeleteBucket s3/one: 409 BucketNotEmpty; use rb --force to empty it first\n" == result.err


@pytest.mark.parametrize(
    "words", ["rb --force s3/one", "rb --force --yes s3/one", "rm -r --yes s3/one", "rm -rf s3/one"]
)
def test_one_flag_stops_every_question(fake: FakeS3, call: Call, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """For scripts that run on a terminal; the older flag still does."""
    fake.store.add("one", "k")
    monkeypatch.setattr(Context, "is_tty", property(lambda _: True))

    result = call(*words.split(), stdin=b"")

    assert (0, False) == (result.code, "?" in result.err)
    assert {} == fake.store.bodies("one")
