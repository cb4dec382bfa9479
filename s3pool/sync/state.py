"""Where the state of a pair of source and target is kept, and by what name."""

from __future__ import annotations

import hashlib
import os

from s3pool.record import dataclass
from s3pool.shard import Shard
from s3pool.sync.compare import COPY
from s3pool.sync.route import Route

NAME_DIGITS = 32


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The files of one pair; "" where no state is kept."""

    journal: str = ""
    unfinished: str = ""
    lock: str = ""


NO_STATE = StatePaths()


def state_directory(state_home: str, home: str) -> str:
    """Give s3pool's directory below $XDG_STATE_HOME, else below ~/.local/state."""
    base = state_home if os.path.isabs(state_home) else os.path.join(home, ".local", "state")
    return os.path.join(base, "s3pool")


def paths_for(route: Route, *, directory: str, shard: Shard, pool: str, source_profile: str = "") -> StatePaths:
    """Give the files of a pair.

    Both directions between a local directory and S3 share them: what one has left in sync the
    other finds in sync. The lock, unlike the state, is of one pool: the same names in another
    one may be worked on at the same time, while a pool that gets one more node keeps its state.
    ``source_profile`` names the pool of the source where it is another one.
    """
    if not directory:
        return NO_STATE
    if route.direction == COPY:
        sides = [source_profile, route.source_text, route.target_text]
    else:
        remote = route.source_text if route.source.bucket else route.target_text
        sides = [os.uname().nodename, os.path.realpath(route.root or "."), remote]
    sides.append("" if shard.is_whole else shard.text)
    name = _name_of(sides)
    return StatePaths(
        journal=os.path.join(directory, "sync", f"{name}.sqlite"),
        unfinished=os.path.join(directory, "sync", f"{name}.unfinished.sqlite"),
        lock=os.path.join(directory, "locks", f"{_name_of([*sides, pool])}.lock"),
    )


def _name_of(words: list[str]) -> str:
    text = "\0".join(words).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:NAME_DIGITS]
