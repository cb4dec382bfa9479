"""The filesystem: fsspec's own abstract tests, and what they leave out; on the fake and on RGW."""

from __future__ import annotations

import configparser
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_s3 import ACCESS_KEY, MIB, SECRET_KEY, FakeS3

fsspec = pytest.importorskip("fsspec", reason="the extra fsspec is not installed")
abstract = pytest.importorskip("fsspec.tests.abstract")

ROOT = Path(__file__).resolve().parents[2]
# What setup.cfg says is known where the package is installed; the tests run without that.
setup = configparser.ConfigParser()
setup.read(ROOT / "setup.cfg")
PROTOCOL, _, PLACE = setup["options.entry_points"]["fsspec.specs"].strip().partition(" = ")
fsspec.register_implementation(PROTOCOL, PLACE.replace(":", "."), clobber=True)

Environment = Mapping[str, str]


@pytest.fixture(params=["fake", pytest.param("rgw", marks=pytest.mark.live)])
def environment(
    request: pytest.FixtureRequest, fake_s3: Callable[..., FakeS3], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Environment:
    """Give the environment of a store of four nodes."""
    if request.param == "fake":
        found = fake_s3(4, secrets={ACCESS_KEY: SECRET_KEY}).environment
    else:
        found = request.getfixturevalue("rgw").environment
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3pool").clear_instance_cache()  # of the environment before
    return found


@pytest.fixture
def bucket(environment: Environment, bucket_name: str) -> Iterator[str]:
    """Give an empty bucket, which goes with all that is in it."""
    fs = fsspec.filesystem("s3pool", skip_instance_cache=True)
    fs.mkdir(bucket_name)
    yield bucket_name
    fs.rm(bucket_name, recursive=True)
    fs.pool.close()


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc, name-defined]
    """The filesystem under test, and a place in it."""

    @pytest.fixture
    def fs(self, bucket: str) -> Iterator[Any]:
        """Give the filesystem."""
        fs = fsspec.filesystem("s3pool", skip_instance_cache=True)
        yield fs
        fs.pool.close()

    @pytest.fixture
    def fs_path(self, bucket: str) -> str:
        """Give the place."""
        return bucket

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        """Tell that a prefix goes with the last that is below it."""
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc, name-defined]
    """fsspec's tests of copy()."""


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc, name-defined]
    """fsspec's tests of get()."""


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc, name-defined]
    """fsspec's tests of put()."""


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc, name-defined]
    """fsspec's tests of open()."""


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc, name-defined]
    """fsspec's tests of pipe()."""


class TestMore(Fixtures):
    """What programs do with a filesystem beside these."""

    def test_names_are_told_as_of_other_filesystems(self, fs: Any, fs_path: str) -> None:
        """Libraries look at these words."""
        fs.pipe({f"{fs_path}/d/1": b"one", f"{fs_path}/d/e/2": b"two", f"{fs_path}/3": b""})

        assert [(f"{fs_path}/d/1", "file", 3), (f"{fs_path}/d/e", "directory", 0)] == [
            (each["name"], each["type"], each["size"]) for each in fs.ls(f"{fs_path}/d")
        ]
        assert [f"{fs_path}/d/1"] == fs.ls(f"s3pool://{fs_path}/d/1", detail=False)
        assert [f"{fs_path}/3", f"{fs_path}/d/1", f"{fs_path}/d/e/2"] == fs.find(fs_path)
        assert [f"{fs_path}/d/1"] == fs.find(f"{fs_path}/d/1") == fs.glob(f"{fs_path}/d/*")[:1]
        assert (True, False, True, 6) == (
            fs.isdir(f"{fs_path}/d/e"),
            fs.exists(f"{fs_path}/x"),
            fs.isfile(f"{fs_path}/3"),
            fs.du(fs_path),
        )
        assert fs_path in fs.ls("", detail=False)
        assert abs(fs.modified(f"{fs_path}/3").timestamp() - fs.created(f"{fs_path}/d/1").timestamp()) < 60
        assert "f97c5d29941bfb1b2fdab0874906ab82" == fs.checksum(f"{fs_path}/d/1")
        with pytest.raises(FileNotFoundError):
            fs.ls(f"{fs_path}/none")
        with pytest.raises(FileNotFoundError):
            fs.open(f"{fs_path}/none")
        with pytest.raises(FileExistsError):
            fs.mkdir(fs_path)

    def test_ranges_and_texts_are_read(self, fs: Any, fs_path: str) -> None:
        """Columns of a file are its ranges."""
        fs.pipe_file(f"{fs_path}/k", b"0123456789")

        assert [b"23", b"789", b"0123456", b"89", b"", b""] == [
            fs.cat_file(f"{fs_path}/k", start, end)
            for start, end in ((2, 4), (7, None), (None, -3), (8, 99), (99, 100), (5, 5))
        ]
        assert [b"01", b"89"] == fs.cat_ranges([f"{fs_path}/k"] * 2, [0, 8], [2, 10])
        assert "0123456789" == fs.read_text(f"{fs_path}/k")
        with fsspec.open(f"s3pool://{fs_path}/t.gz", "wt", compression="infer") as out:
            out.write("grün\n" * 1000)
        with fsspec.open(f"s3pool://{fs_path}/t.gz", "rt", compression="infer", encoding="utf-8") as stream:
            assert ["grün\n"] * 1000 == stream.readlines()

    def test_a_transaction_stores_all_or_nothing(self, fs: Any, fs_path: str) -> None:
        """What was written in one is there when it ends."""
        with fs.transaction:
            with fs.open(f"{fs_path}/1", "wb") as out:
                out.write(b"1")
            assert not fs.exists(f"{fs_path}/1")
        with pytest.raises(FileNotFoundError):
            _write_and_fail(fs, fs_path)

        assert [f"{fs_path}/1"] == fs.find(fs_path)

    def test_it_goes_to_other_processes_by_pickle(self, fs: Any, fs_path: str) -> None:
        """Schedulers send it so."""
        fs.pipe_file(f"{fs_path}/k", b"content")

        other = pickle.loads(pickle.dumps(fs))

        assert b"content" == other.cat_file(f"{fs_path}/k")

    def test_files_come_whole_and_go_whole(self, fs: Any, fs_path: str, tmp_path: Path) -> None:
        """By parts and by ranges where they are large."""
        content = os.urandom(MIB) * 40
        (tmp_path / "big").write_bytes(content)

        fs.put(str(tmp_path / "big"), f"{fs_path}/big")
        fs.get(f"{fs_path}/big", str(tmp_path / "back"))
        fs.mv(f"{fs_path}/big", f"{fs_path}/moved")

        assert content == (tmp_path / "back").read_bytes()
        assert [f"{fs_path}/moved"] == fs.find(fs_path)
        with fs.open(f"{fs_path}/moved", block_size=MIB) as stream:
            stream.seek(-5, 2)
            assert content[-5:] == stream.read()


def _write_and_fail(fs: Any, place: str) -> None:
    with fs.transaction:
        with fs.open(f"{place}/2", "wb") as out:
            out.write(b"2" * 9 * MIB)
        fs.info(f"{place}/none")
