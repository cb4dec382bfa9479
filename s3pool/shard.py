"""One of N machines' share of the names: the same on every machine, without talking."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from s3pool.errors import UsageError
from s3pool.record import dataclass

HASH_BYTES = 8
FLAG = "--shard"
AUTO = "auto"  # the word for the shard that the environment tells


@dataclass(frozen=True, slots=True)
class Variables:
    """Where a manager of jobs writes an index, their count, the first one, the step and the last one."""

    index: str
    count: str
    first: str = ""
    step: str = ""
    last: str = ""


# Source: sbatch(1), "Output environment variables"; Kubernetes, "Indexed Job for Parallel Processing".
ENVIRONMENTS = (
    Variables(
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_STEP",
        "SLURM_ARRAY_TASK_MAX",
    ),
    Variables("JOB_COMPLETION_INDEX", "S3POOL_SHARD_COUNT"),
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

    def holds_named(self, name: str) -> bool:
        """Say whether an object that was named one by one is of it: only the flag divides those."""
        return self.origin != FLAG or self.holds(name)


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Read ``I/N``; I counts from 0, and N/N is 0/N, so that counting from 1 serves as well.

    Raises:
        UsageError: it is something else.
    """
    index, slash, count = text.partition("/")
    if not slash or not (_is_number(index) and _is_number(count)) or not int(count) or int(index) > int(count):
        raise UsageError(f"bad shard {text!r}: write I/N, such as 0/8 to 7/8")
    return Shard(int(index) % int(count), int(count), FLAG)


def choose_shard(text: str, environ: Mapping[str, str]) -> Shard:
    """Return the shard that the flag names; with ``auto`` the one that Slurm or Kubernetes has set.

    Raises:
        UsageError: the flag or the environment makes no sense, or neither of them has set one.
    """
    if text != AUTO:
        return parse_shard(text) if text else WHOLE
    for variables in ENVIRONMENTS:
        if environ.get(variables.index) and environ.get(variables.count):
            return _from_environment(variables, environ)
    raise UsageError(f"{FLAG} {AUTO}: {_what_is_missing(environ)}")


def _what_is_missing(environ: Mapping[str, str]) -> str:
    for variables in ENVIRONMENTS:
        if environ.get(variables.index):
            return f"{variables.index} is set, {variables.count} is not"
    return "neither a Slurm array nor an indexed Kubernetes job is to be seen"


def _from_environment(variables: Variables, environ: Mapping[str, str]) -> Shard:
    index, count = _number(variables.index, environ), _number(variables.count, environ)
    first, step = _number(variables.first, environ), max(1, _number(variables.step, environ))
    place, rest = divmod(index - first, step)
    if rest or not 0 <= place < count or not _is_regular(variables, environ):
        raise UsageError(
            f"{variables.index}={index} and {variables.count}={count} make no shard; say which one with {FLAG} I/N"
        )
    return Shard(place, count, variables.index)


def _is_regular(variables: Variables, environ: Mapping[str, str]) -> bool:
    """Say whether the indices are evenly spaced; else some task of the array could not tell its place."""
    if not environ.get(variables.last):
        return True
    first, last = _number(variables.first, environ), _number(variables.last, environ)
    step = max(1, _number(variables.step, environ))
    return last == first + (_number(variables.count, environ) - 1) * step


def _number(name: str, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "") or "0"
    if not _is_number(text):
        raise UsageError(f"{name}={text!r} is no number")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
