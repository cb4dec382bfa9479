"""Where the state of a pair of source and target is kept, and by what name."""

from __future__ import annotations

import contextlib
import hashlib
import os

from s3pool.record import dataclass
from s3pool.shard import Shard
from s3pool.sync.compare import COPY
from s3pool.sync.route import Route

NAME_DIGITS = 32


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The files of one pair, and its pool; "" where no state is kept.

    ``older`` is where versions that did not know the pool kept the journal, and the transfers.
    """

    journal: str = ""
    unfinished: str = ""
    lock: str = ""
    pool: str = ""
    older: tuple[str, str] = ("", "")

    def adopt(self) -> None:
        """Take over what older versions have left: the pool that comes first has it."""
        for old, new in zip(self.older, (self.journal, self.unfinished), strict=True):
            if os.path.exists(old) and not os.path.exists(new):
                with contextlib.suppress(OSError):
                    os.replace(old, new)

    @property
    def readable_journal(self) -> str:
        """Return the journal for who must not take it over."""
        return self.journal if os.path.exists(self.journal) else self.older[0]


NO_STATE = StatePaths()


def state_directory(state_home: str, home: str) -> str:
    """Give s3pool's directory below $XDG_STATE_HOME, else below ~/.local/state."""
    base = state_home if os.path.isabs(state_home) else os.path.join(home, ".local", "state")
    return os.path.join(base, "s3pool")


def paths_for(route: Route, *, directory: str, shard: Shard, pool: str, source_profile: str = "") -> StatePaths:
    """Give the files of a pair.

    Both directions between a local directory and S3 share them: what one has left in sync the
    other finds in sync. ``pool`` names the pool of the target, and that of the source where it is
    another one: the same names in another pool are another pair. ``source_profile`` was what
    stood for the latter.
    """
    if not directory:
        return NO_STATE
    if route.direction == COPY:
        sides = [source_profile, route.source_text, route.target_text]
    else:
        remote = route.source_text if route.source.bucket else route.target_text
        sides = [os.uname().nodename, os.path.realpath(route.root or "."), remote]
    sides.append("" if shard.is_whole else shard.text)
    older, name = _name_of(sides), _name_of([*sides, pool])
    return StatePaths(
        journal=os.path.join(directory, "sync", f"{name}.sqlite"),
        unfinished=os.path.join(directory, "sync", f"{name}.unfinished.sqlite"),
        lock=os.path.join(directory, "locks", f"{name}.lock"),
        pool=pool,
        older=(
            os.path.join(directory, "sync", f"{older}.sqlite"),
            os.path.join(directory, "sync", f"{older}.unfinished.sqlite"),
        ),
    )


def _name_of(words: list[str]) -> str:
    text = "\0".join(words).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:NAME_DIGITS]
