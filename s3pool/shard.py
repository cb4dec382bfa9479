"""One of N machines' share of the names: the same on every machine, without talking."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from s3pool.errors import UsageError

HASH_BYTES = 8
# Variables of the index, of the count, of the first index and of the step between indices.
# Source: sbatch(1), "Output environment variables"; Kubernetes, "Indexed Jobs".
ENVIRONMENTS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    ("JOB_COMPLETION_INDEX", "S3POOL_SHARD_COUNT", "", ""),
)


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``index`` of ``count``, counted from 0; ``origin`` says where that was told."""

    index: int = 0
    count: int = 1
    origin: str = ""

    @property
    def is_whole(self) -> bool:
        """Say whether it is everything."""
        return self.count == 1

    @property
    def text(self) -> str:
        """Give it as it is written: ``3/8``."""
        return f"{self.index}/{self.count}"

    def holds(self, name: str) -> bool:
        """Say whether a name is of this shard; of the shards of one count exactly one holds it."""
        if self.count == 1:
            return True
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=HASH_BYTES).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


WHOLE = Shard()
AUTO = "auto"  # the word for the shard that the environment tells


def parse_shard(text: str) -> Shard:
    """Read ``I/N``; I counts from 0, and N/N is 0/N, so that counting from 1 serves as well.

    Raises:
        UsageError: it is something else.
    """
    index, slash, count = text.partition("/")
    if not slash or not (_is_number(index) and _is_number(count)) or not int(count) or int(index) > int(count):
        raise UsageError(f"bad shard {text!r}: write I/N, such as 0/8 to 7/8")
    return Shard(int(index) % int(count), int(count), "--shard")


def choose_shard(text: str, environ: Mapping[str, str]) -> Shard:
    """Give the shard that the flag names, else the one that Slurm or Kubernetes has set.

    Raises:
        UsageError: the flag or the environment makes no sense.
    """
    if text:
        return parse_shard(text)
    for names in ENVIRONMENTS:
        if environ.get(names[0]) and environ.get(names[1]):
            return _from_environment(names, environ)
    return WHOLE


def _from_environment(names: tuple[str, str, str, str], environ: Mapping[str, str]) -> Shard:
    index, count = _number(names[0], environ), _number(names[1], environ)
    first, step = _number(names[2], environ), max(1, _number(names[3], environ))
    place = (index - first) // step
    if not 0 <= place < count:
        raise UsageError(f"{names[0]}={index} and {names[1]}={count} make no shard; say which one with --shard I/N")
    return Shard(place, count, names[0])


def _number(name: str, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "") or "0"
    if not _is_number(text):
        raise UsageError(f"{name}={text!r} is no number")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
