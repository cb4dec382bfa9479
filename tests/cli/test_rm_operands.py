from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3pool.cli.commands.rm import Removal, RemovalRules, scope_of
from s3pool.config.load import load_config
from s3pool.errors import NotFoundError, UsageError
from s3pool.filters import NameFilter, ObjectFilter
from s3pool.location import parse_s3
from s3pool.s3.client import S3Client
from s3pool.session import open_session
from s3pool.transfer.tasks import DeleteTask, Problem
from tests.support.fake_s3 import FakeS3

Keys = Callable[..., list[str]]
OLD, NEW = 1_000_000, 2_000_000


@pytest.fixture
def client(fake: FakeS3, tmp_path: Path) -> Iterator[S3Client]:
    """Give a client of the fake, which has an empty bucket ``b``."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")
    session = open_session(load_config({}, environ=fake.environment, cwd=str(tmp_path), home=str(tmp_path)))
    yield session.client
    session.close()


@pytest.fixture
def keys(fake: FakeS3, client: S3Client) -> Keys:
    """Give the keys that words would remove."""
    for key in ("p", "p/", "p/a", "p/d/b", "p2/x", "pfile", "a*b"):
        fake.store.add("b", key, mtime=NEW if key in ("p/d/b", "pfile") else OLD)

    def expand(*words: str, **rules: object) -> list[str]:
        removal = Removal(client, map(parse_s3, words), rules=RemovalRules(**rules))  # type: ignore[arg-type]
        return [task.key for task in removal if isinstance(task, DeleteTask)]

    return expand


def test_one_key_is_that_key(keys: Keys) -> None:
    """Without -r nothing below it goes, whether it is there or not."""
    assert ["p", "missing", "p/"] == keys("s3/b/p", "s3/b/missing", "s3/b/p/")


def test_tree_is_the_key_and_what_lies_below(keys: Keys) -> None:
    """`p2` and `pfile` are somebody else's."""
    assert ["p", "p/", "p/a", "p/d/b"] == keys("s3/b/p", recursive=True)
    assert ["p/", "p/a", "p/d/b"] == keys("s3/b/p/", recursive=True)


def test_raw_prefix_takes_every_key_that_starts_so(keys: Keys) -> None:
    """Only when it is asked for by name."""
    assert ["p", "p/", "p/a", "p/d/b", "p2/x", "pfile"] == keys("s3/b/p", raw_prefix=True)


def test_glob_crosses_slashes(keys: Keys) -> None:
    """As in all commands."""
    assert ["p/d/b"] == keys("s3/b/p/*b")
    assert ["a*b"] == keys("s3/b/a*b", glob=False)


def test_names_and_ages_narrow(keys: Keys) -> None:
    """Tests are ANDed."""
    between = (OLD + NEW) / 2

    assert ["p/d/b"] == keys("s3/b/p", recursive=True, facts=ObjectFilter(newer_than=between))
    assert ["p/a"] == keys("s3/b/p/", recursive=True, names=NameFilter([("include", "a")]))
    assert [] == keys("s3/b/pfile", facts=ObjectFilter(older_than=between))
    assert ["p"] == keys("s3/b/p", facts=ObjectFilter(older_than=between))


def test_versions_are_all_versions_and_markers(fake: FakeS3, client: S3Client) -> None:
    """Of exactly these keys."""
    client.put_versioning("b", enabled=True)
    for key in ("k", "k", "k2", "k/x"):
        fake.store.add("b", key)
    client.delete_object("b", "k")

    one = Removal(client, [parse_s3("s3/b/k")], rules=RemovalRules(versions=True))
    tree = Removal(client, [parse_s3("s3/b/k")], rules=RemovalRules(versions=True, recursive=True))

    assert ["k", "k", "k"] == [task.key for task in one if isinstance(task, DeleteTask)]
    assert ["k", "k", "k", "k/x"] == sorted(task.key for task in tree if isinstance(task, DeleteTask))
    assert all(task.version_id for task in one if isinstance(task, DeleteTask))


def test_unfinished_uploads_are_found_by_key_and_age(fake: FakeS3, client: S3Client) -> None:
    """A directory of keys needs no -r: nobody's data is in danger."""
    for key in ("u", "u/x", "u2"):
        client.create_multipart_upload("b", key)

    def found(text: str, **rules: object) -> list[str]:
        removal = Removal(client, [parse_s3(text)], rules=RemovalRules(incomplete=True, **rules))  # type: ignore[arg-type]
        return [task.key for task in removal if isinstance(task, DeleteTask) and task.upload_id]

    assert ["u"] == found("s3/b/u")
    assert ["u", "u/x"] == found("s3/b/u", recursive=True)
    assert ["u", "u/x", "u2"] == found("s3/b")
    assert ["u/x"] == found("s3/b/u/")
    assert [] == found("s3/b", facts=ObjectFilter(older_than=OLD))


@pytest.mark.parametrize(("text", "rules"), [("s3/b", {}), ("s3", {"recursive": True})])
def test_too_much_is_refused(text: str, rules: dict[str, object]) -> None:
    """A whole bucket goes only with -r, all buckets never."""
    with pytest.raises(UsageError):
        scope_of(parse_s3(text), RemovalRules(**rules))  # type: ignore[arg-type]


def test_missing_bucket_is_a_problem(keys: Keys, client: S3Client) -> None:
    """Other operands go on."""
    operands = [parse_s3("s3/missing/k"), parse_s3("s3/b/p2")]

    items = list(Removal(client, operands, rules=RemovalRules(recursive=True)))

    assert isinstance(items[0], Problem)
    assert isinstance(items[0].error, NotFoundError)
    assert ["p2/x"] == [item.key for item in items if isinstance(item, DeleteTask)]
