"""pandas, pyarrow, dask, zarr and a data loader by ``s3pool://``: what they write they read, through the filesystem."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec", reason="the extra fsspec is not installed")
from tests.library.test_fsspec import bucket, environment, fsspec

__all__ = ["bucket", "environment"]  # fixtures


@pytest.fixture
def place(bucket: str, environment: Mapping[str, str]) -> str:
    """Give a directory in the store."""
    assert environment
    return f"s3pool://{bucket}/tables"


def parquet_of_pandas(place: str) -> tuple[Any, Any]:
    """Write and read one column by pandas and pyarrow."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"n": range(5000)}).to_parquet(f"{place}/one.parquet")
    return list(range(5000)), pandas.read_parquet(f"{place}/one.parquet")["n"].tolist()


def csv_of_pandas(place: str) -> tuple[Any, Any]:
    """Write and read text, compressed by its name."""
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"n": range(5000)}).to_csv(f"{place}/one.csv.gz", index=False)
    return list(range(5000)), pandas.read_csv(f"{place}/one.csv.gz")["n"].tolist()


def dataset_of_pyarrow(place: str) -> tuple[Any, Any]:
    """Write a partitioned data set, and read a part of it."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    fs, path = fsspec.core.url_to_fs(f"{place}/set")
    table = pyarrow.table({"year": [2025, 2026] * 50, "n": list(range(100))})
    parquet.write_to_dataset(table, path, partition_cols=["year"], filesystem=fs)
    found = parquet.read_table(path, filesystem=fs, filters=[("year", "=", 2026)])
    return list(range(1, 100, 2)), sorted(found["n"].to_pylist())


def frame_of_dask(place: str) -> tuple[Any, Any]:
    """Write and read in parts, in threads."""
    pandas = pytest.importorskip("pandas")
    frame = pytest.importorskip("dask.dataframe")
    frame.from_pandas(pandas.DataFrame({"n": range(1000)}), npartitions=4).to_parquet(f"{place}/dask")
    return sum(range(1000)), int(frame.read_parquet(f"{place}/dask")["n"].sum().compute())


def array_of_zarr(place: str) -> tuple[Any, Any]:
    """Write and read an array in chunks."""
    zarr = pytest.importorskip("zarr")
    array = zarr.open(f"{place}/array.zarr", mode="w", shape=(100, 100), chunks=(25, 25), dtype="i4")
    array[:] = 7
    return 70_000, int(zarr.open(f"{place}/array.zarr", mode="r")[:].sum())


def data_loader(place: str) -> tuple[Any, Any]:
    """Read as torch's loaders do: a list of names, and threads that open what they are given."""
    fs, path = fsspec.core.url_to_fs(f"{place}/samples")
    samples = {f"{path}/{number:03}": os.urandom(1000 + number) for number in range(40)}
    fs.pipe(samples)

    def get(name: str) -> tuple[str, bytes]:
        with fs.open(name, "rb") as file:
            return name, file.read()

    with ThreadPoolExecutor(4) as workers:
        return samples, dict(workers.map(get, fs.find(path)))


@pytest.mark.parametrize(
    "work", [parquet_of_pandas, csv_of_pandas, dataset_of_pyarrow, frame_of_dask, array_of_zarr, data_loader]
)
@pytest.mark.filterwarnings("default")  # those of other libraries
def test_what_is_written_is_read(place: str, work: Callable[[str], tuple[Any, Any]], tmp_path: Path) -> None:
    """Whoever comes from s3fs changes the protocol alone."""
    assert tmp_path.exists()

    expected, found = work(place)

    assert expected == found
