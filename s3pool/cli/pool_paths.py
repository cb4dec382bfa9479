"""Paths that begin with the name of a profile: ``berlin/BUCKET/KEY`` is in the pool of the profile berlin.

The rule: the first name of a path is a profile of the configuration file, and, where the command takes local paths as
well, nothing of that name lies in the working directory; both at once is an error. A name alone means all buckets
where only S3 can be meant. ``s3/...`` is always the usual pool, and ``./...`` is always local.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection

from s3pool.errors import UsageError
from s3pool.location import is_s3_text

ONLY_S3 = ("path", "paths", "buckets", "words")  # the namespace's names of operands
LOCAL_TOO = ("source", "sources", "first", "target", "second")
TARGETS = ("target", "second")
NAMED = re.compile(r"([^/.=:\-~][^/=:]*)(/|$)")
USUAL = ""  # the pool of s3/...


def choose_pools(args: argparse.Namespace, known: Callable[[], Collection[str]]) -> None:
    """Rewrite operands of profiles to ``s3/...``, and choose the command's pool, or its two, by them.

    ``known`` tells the names of the profiles; it is asked only where an operand may begin with one.
    """
    dests = [dest for dest in (*ONLY_S3, *LOCAL_TOO) if getattr(args, dest, None)]
    if not any(NAMED.match(text) and not is_s3_text(text) for dest in dests for text in _texts(args, dest)):
        return
    names = known()
    pools: dict[bool, set[str]] = {False: set(), True: set()}  # of sources, and of targets
    for dest in dests if names else ():
        takes_local = dest in LOCAL_TOO and args.command != "pipe"
        found = [_read(text, names, takes_local) for text in _texts(args, dest)]
        pools[dest in TARGETS].update(pool for pool, _ in found if pool is not None)
        texts = [text for _, text in found]
        setattr(args, dest, texts if isinstance(getattr(args, dest), list) else texts[0])
    if (pools[False] | pools[True]) - {USUAL}:
        _settle(args, pools[False], pools[True])


def _texts(args: argparse.Namespace, dest: str) -> list[str]:
    value = getattr(args, dest)
    return value if isinstance(value, list) else [value]


def _read(text: str, names: Collection[str], takes_local: bool) -> tuple[str | None, str]:
    """Return the pool of a path, None for a local one, and the path as commands read it."""
    match = NAMED.match(text)
    if is_s3_text(text):
        return USUAL, text
    if match is None or match[1] not in names or (takes_local and not match[2]):
        return None, text
    rest = text[match.end() :]
    if takes_local and os.path.lexists(match[1]):
        raise UsageError(
            f"{text} may be the profile {match[1]} or what is called {match[1]} here: write ./{text} for the latter, "
            f"else s3/{rest} with --profile {match[1]}"
        )
    return match[1], f"s3/{rest}"


def _settle(args: argparse.Namespace, sources: set[str], targets: set[str]) -> None:
    """Note the pools for the command's Context."""
    pools = sources | targets
    if len(pools) == 1:
        args.target_profile, args.is_one_pool = pools.pop(), True
        return
    named = ", ".join(pool or "s3" for pool in sorted(pools))
    if len(sources) != 1 or len(targets) != 1 or not hasattr(args, "source_profile"):
        raise UsageError(
            f"the paths are of several pools ({named}): one command copies or compares from one to another"
        )
    if args.source_profile:
        raise UsageError(f"--source-profile and paths of several pools ({named}) exclude each other")
    args.source_profile, args.target_profile = sources.pop(), targets.pop()
