"""Small worlds: contents that are known by their digests, names, buckets, trees on disk."""

from __future__ import annotations

import hashlib
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
LOCAL = ""  # stands for a bucket's name where a place is on disk
Place = tuple[str, str]  # bucket and key, or LOCAL and a path below the working directory
Digest = str
TEMPORARY = re.compile(r"\.s3pool-[0-9a-f]{12,}\.part")  # what s3pool makes; other such names are users'

PLAIN_NAMES = ("a.txt", "b.tmp", "sub/c.txt", "sub/deep/d.bin", "z", "sub.x/e", "n 1.txt")
HOSTILE_NAMES = (
    "caf\u00e9",
    "cafe\u0301",
    "new\nline",
    "percent%2Fslash",
    "%41",
    "plus+and space",
    "quotes\"'`",
    "<angle>&amp;",
    "back\\slash",
    "semi;colon=equals&and?question#hash",
    "[glob]*?.tmp",
    "-dash",
    "control\x01",
    "\U0001f600/emoji",
    " lead and trail ",
    "..dots/...x",
    "tab\there",
    ".hidden/.x",
    ".s3pool-notes.part",
    "sub/.s3pool-mine.part",
    "x.part",
    "CON",
    "case",
    "Case",
)
# Names that no file can have, or that share one: legal and distinct as keys.
TRAP_NAMES = ("a//b", "a/./b", "../out", "dir/", "/abs", "p/../../x", "sub", "z/below", "." * 2)
SIZES = (0, 1, 17, 100, 1000, 4096, 65_536, 70_001)
LARGE_SIZES = (5 * MIB + 1, 6 * MIB, 10 * MIB + 7)


class Contents:
    """Makes contents, each another one, and knows them again by their digests."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._known: dict[Digest, tuple[str, bytes]] = {digest_of(b""): ("nothing", b"")}

    def make(self, label: str, size: int) -> bytes:
        """Return the content of a label, the same each time."""
        body = random.Random(f"{self._seed} {label}").randbytes(size)
        self._known[digest_of(body)] = (label, body)
        return body

    def knows(self, digest: Digest | None) -> bool:
        """Return whether it is a whole content of this world."""
        return digest is None or digest in self._known

    def body(self, digest: Digest) -> bytes:
        """Return the bytes of a digest."""
        return self._known[digest][1]

    def size(self, digest: Digest) -> int:
        """Return the length of a content."""
        return len(self._known[digest][1])

    def label(self, digest: Digest | None) -> str:
        """Return what a content is called in messages."""
        if digest is None:
            return "nothing there"
        label, body = self._known.get(digest, (f"UNKNOWN {digest[:12]}", None))
        return label if body is None else f"{label} ({len(body)} B)"


@dataclass
class State:
    """What a plain reader finds: contents and times by place, and what should not be there."""

    digests: dict[Place, Digest] = field(default_factory=dict)
    times: dict[Place, float] = field(default_factory=dict)
    versions: dict[Place, set[Digest]] = field(default_factory=dict)  # in buckets that keep them
    buckets: set[str] = field(default_factory=set)
    uploads: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    directories: set[str] = field(default_factory=set)

    def below(self, bucket: str, prefix: str) -> dict[str, Digest]:
        """Return the digests of what lies below a prefix, by the rest of the name."""
        return {
            key[len(prefix) :]: digest
            for (room, key), digest in self.digests.items()
            if room == bucket and key.startswith(prefix)
        }


@dataclass(frozen=True)
class Planted:
    """One thing that is put into the world before a command; no label takes it away."""

    place: Place
    label: str
    size: int = 0
    age_s: float = 0.0


class Disk:
    """The working directory of the commands."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> str:
        """Return the path of a name."""
        return os.path.join(self.root, name)

    def put(self, name: str, body: bytes, *, mtime: float) -> bool:
        """Replace a file as an editor does: by another inode; a directory in the way stays."""
        path = self.path(name)
        aside = os.path.join(self.root.parent, ".aside")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(aside, "wb") as stream:
                stream.write(body)
            os.utime(aside, (mtime, mtime))
            os.replace(aside, path)
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            os.unlink(self.path(name))
        except OSError:
            return

    def read(self, state: State, known: set[str]) -> None:
        """Add what is on disk to a state; ``known`` are names that are nobody's temporary files."""
        for directory, names, files in os.walk(self.root):
            base = os.path.relpath(directory, self.root)
            state.directories.update(os.path.normpath(os.path.join(base, name)) for name in names)
            for file in files:
                name = os.path.normpath(os.path.join(base, file))
                if TEMPORARY.fullmatch(file) and name not in known:
                    state.temporary.append(name)
                    continue
                path = os.path.join(directory, file)
                with open(path, "rb") as stream:
                    state.digests[LOCAL, name] = digest_of(stream.read())
                state.times[LOCAL, name] = os.stat(path).st_mtime


def digest_of(body: bytes) -> Digest:
    """Return the digest by which a content is known."""
    return hashlib.sha256(body).hexdigest()
