"""One of N parts of the names, the same on every machine: by a hash, or by the ranges of a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from s3pool.errors import UsageError
from s3pool.location import name_bytes
from s3pool.record import dataclass

HASH_BYTES = 8
FLAG = "--shard"
AUTO = "auto"  # the word for the shard that the environment names
RECORD = "shard"  # the type of a plan's records


@dataclass(frozen=True, slots=True)
class NameRange:
    """The names greater than ``after``, up to ``until`` and with it, in the order of their bytes.

    None is no bound. Names are relative to the tree, so that one plan serves both sides of a sync.
    """

    after: str | None = None
    until: str | None = None

    def holds(self, name: str) -> bool:
        """Return whether a name lies in the range."""
        place = name_bytes(name)
        return (self.after is None or name_bytes(self.after) < place) and (
            self.until is None or place <= name_bytes(self.until)
        )

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a directory, which ends in a slash, can lie in the range."""
        if self.until is not None and name_bytes(directory) > name_bytes(self.until):
            return False
        return self.after is None or name_bytes(directory) > name_bytes(self.after) or self.after.startswith(directory)

    def bounds(self, base: str) -> tuple[str, str | None]:
        """Return where the listing of the keys below ``base`` starts, and the last key of it."""
        return "" if self.after is None else base + self.after, None if self.until is None else base + self.until


# Where a job manager writes an index and the count, and the first, the step and the last index.
# Source: sbatch(1), "Output environment variables"; Kubernetes, "Indexed Job for Parallel Processing".
SLURM = tuple(f"SLURM_ARRAY_TASK_{word}" for word in ("ID", "COUNT", "MIN", "STEP", "MAX"))
ENVIRONMENTS = (SLURM, ("JOB_COMPLETION_INDEX", "S3POOL_SHARD_COUNT", "", "", ""))


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``index`` of ``count``, counted from 0; ``origin`` is the flag or the variable it comes from.

    ``range`` is its range of a plan. Without a plan a name belongs to the shard of its hash.
    """

    index: int = 0
    count: int = 1
    origin: str = ""
    range: NameRange | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the shard is everything."""
        return self.count == 1

    @property
    def text(self) -> str:
        """The shard as it is written: ``3/8``."""
        return f"{self.index}/{self.count}"

    def holds(self, name: str) -> bool:
        """Return whether a name is of this shard; exactly one shard of a count, or of a plan, holds it."""
        if self.range is not None:
            return self.range.holds(name)
        if self.count == 1:
            return True
        digest = hashlib.blake2b(name_bytes(name), digest_size=HASH_BYTES).digest()
        return int.from_bytes(digest, "big") % self.count == self.index

    def holds_named(self, name: str) -> bool:
        """Return whether an object that was named alone is of this shard: only the flag divides those."""
        return self.origin != FLAG or self.holds(name)

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a directory, which ends in a slash, can be of this shard."""
        return self.range is None or self.range.may_contain(directory)

    def bounds(self, base: str) -> tuple[str, str | None]:
        """Return the start-after and the last key of a listing below ``base``; a hash bounds nothing."""
        return ("", None) if self.range is None else self.range.bounds(base)


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Parse ``I/N``; I counts from 0, and N/N means 0/N, so that counting from 1 works as well."""
    index, slash, count = text.partition("/")
    if not slash or not (_is_number(index) and _is_number(count)) or not int(count) or int(index) > int(count):
        raise UsageError(f"bad shard {text!r}: write I/N, such as 0/8 to 7/8")
    return Shard(int(index) % int(count), int(count), FLAG)


def choose_shard(text: str, environ: Mapping[str, str]) -> Shard:
    """Return the shard that the flag names; with ``auto`` the one that Slurm or Kubernetes has set."""
    if text != AUTO:
        return parse_shard(text) if text else WHOLE
    missing = "neither a Slurm array nor an indexed Kubernetes job is to be seen"
    for variables in reversed(ENVIRONMENTS):
        index, count = variables[:2]
        if environ.get(index):
            missing = f"{index} is set, {count} is not"
    for variables in ENVIRONMENTS:
        if all(map(environ.get, variables[:2])):
            return _from_environment(variables, environ)
    raise UsageError(f"{FLAG} {AUTO}: {missing}")


def _from_environment(variables: Sequence[str], environ: Mapping[str, str]) -> Shard:
    index, count, first, step, last = (_number(name, environ) for name in variables)
    step = max(1, step)
    place, rest = divmod(index - first, step)
    # Where the indices are not evenly spaced, a task of the array cannot tell its place.
    is_regular = not environ.get(variables[-1]) or last == first + (count - 1) * step
    if rest or not 0 <= place < count or not is_regular:
        what = f"{variables[0]}={index} and {variables[1]}={count}"
        raise UsageError(f"{what} make no shard; say which one with {FLAG} I/N")
    return Shard(place, count, variables[0])


def _number(name: str, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "") or "0"
    if not _is_number(text):
        raise UsageError(f"{name}={text!r} is no number")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def ranges_between(borders: Sequence[str]) -> list[NameRange]:
    """Return the ranges that borders in order make: together they hold every name once."""
    return [NameRange(after, until) for after, until in zip([None, *borders], [*borders, None], strict=True)]


def plan_record(index: int, count: int, names: NameRange) -> dict[str, object]:
    """Return the JSON object of one range of a plan."""
    return {"type": RECORD, "shard": index, "of": count, "after": names.after, "until": names.until}


def parse_plan(lines: Iterable[str], *, name: str) -> list[NameRange]:
    """Parse the lines that ``s3pool shards`` printed; ``name`` says where they are from."""
    found = [_parse_line(line, name) for line in lines if line.strip()]
    numbers = [(str(record.get("shard")), str(record.get("of"))) for record in found]
    ranges = [NameRange(record.get("after"), record.get("until")) for record in found]
    bounds: list[str | None] = [border for part in ranges for border in (part.after, part.until)]
    inner = bounds[1:-1]
    is_plan = bool(found) and numbers == [(str(index), str(len(found))) for index in range(len(found))]
    if not is_plan or bounds[0] is not None or bounds[-1] is not None or inner[::2] != inner[1::2]:
        raise UsageError(f"{name} is no whole plan: make one with s3pool shards, and give every shard the same file")
    borders = [border for border in inner[::2] if isinstance(border, str)]
    if len(borders) < len(found) - 1 or sorted(borders, key=name_bytes) != borders:
        raise UsageError(f"{name} is no plan: the ranges must follow each other")
    return ranges


def _parse_line(line: str, name: str) -> dict[str, str | None]:
    import json

    try:
        record = json.loads(line)
    except ValueError as exc:
        raise UsageError(f"{name} is no plan of s3pool shards: {line[:40]!r} is no JSON object") from exc
    if not isinstance(record, dict) or record.get("type") != RECORD:
        raise UsageError(f"{name} is no plan of s3pool shards: {line[:40]!r} is no shard")
    return record
