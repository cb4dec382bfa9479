"""What a command promises, worked out from the state before it."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.resilience.chaos.worlds import LOCAL, Contents, Digest, Place, State

Allowed = frozenset[Digest | None]
SLACK_S = 1.0  # times closer than this are not told apart
EXCLUDED = "*.tmp"
OTHER = "other:"  # stands before the names of buckets of the second store


@dataclass(frozen=True)
class Command:
    """One command line, in the parts that its meaning needs."""

    verb: str
    sources: tuple[str, ...] = ()
    target: str = ""
    flags: tuple[str, ...] = ()
    stdin_label: str = ""
    stdin_size: int = 0

    def argv(self) -> list[str]:
        """Return the words after ``s3pool``."""
        return [self.verb, *self.flags, *self.sources, *([self.target] if self.target else [])]

    def has(self, *flags: str) -> bool:
        """Return whether one of the flags is there."""
        return any(flag in self.flags for flag in flags)


@dataclass
class Expectation:
    """What must hold after a command; places that are not named stay as they are."""

    wanted: dict[Place, Allowed] = field(default_factory=dict)
    codes: set[int] = field(default_factory=lambda: {0})  # when nothing goes wrong
    moves: list[tuple[Place, Place]] = field(default_factory=list)
    copies: list[tuple[Place, Place]] = field(default_factory=list)
    deletes: set[Place] = field(default_factory=set)
    loose: set[Place] = field(default_factory=set)  # any whole content, or nothing
    loose_below: str | None = None  # a directory in which any whole content may be
    made: set[str] = field(default_factory=set)
    unmade: set[str] = field(default_factory=set)
    listing: set[str] | None = None  # what is printed, as URLs
    output: bytes | None = None
    converges: bool = True  # a rerun in peace does it


def is_s3(text: str) -> bool:
    """Return whether a path on the command line is in S3."""
    return text.startswith("s3/")


def split(text: str) -> Place:
    """Return bucket and key, or LOCAL and the normal path."""
    if not is_s3(text):
        return LOCAL, os.path.normpath(text)
    bucket, _, key = text[3:].partition("/")
    return bucket, key


def begin_of(command: Command, source: str) -> Place:
    """Return the place of a source; the other pool's buckets have a name of their own."""
    bucket, key = split(source)
    return (OTHER + bucket if bucket != LOCAL and command.has("other") else bucket), key


def tree_prefix(key: str) -> str:
    """Return the prefix of everything below."""
    return key if not key or key.endswith("/") else key + "/"


def expect(command: Command, state: State, contents: Contents) -> Expectation:
    """Return what a command promises in a state."""
    expectation = _EFFECTS[command.verb](command, state, contents)
    if command.has("--dry-run"):
        expectation.wanted.clear()
        expectation.moves.clear()
        expectation.copies.clear()
        expectation.loose.clear()
        expectation.codes |= {0, 6}
    return expectation


# -- copies and moves ----------------------------------------------------------------------


def _is_directory(state: State, name: str) -> bool:
    return name in state.directories or name == "."


def _is_name(command: Command, state: State) -> bool:
    """Return whether the target is the name of one file, whatever the source's own is."""
    is_single = not command.has("-r") and len(command.sources) == 1
    return is_single and not command.target.endswith("/") and not _is_directory(state, split(command.target)[1])


def _place_of(source: str, command: Command, state: State) -> Place:
    bucket, key = split(command.target)
    base = split(source)[1].rpartition("/")[2]
    many = len(command.sources) > 1
    if bucket == LOCAL:
        into = many or command.target.endswith("/") or _is_directory(state, key)
        return LOCAL, os.path.normpath(os.path.join(key, base)) if into else key
    return bucket, tree_prefix(key) + base if many or not key or key.endswith("/") else key


def _below(command: Command, relative: str) -> Place:
    bucket, key = split(command.target)
    return (LOCAL, f"{key}/{relative}") if bucket == LOCAL else (bucket, tree_prefix(key) + relative)


def iter_pairs(command: Command, state: State) -> Iterator[tuple[Place, Place, str] | None]:
    """Yield source, target and relative name of everything a copy would copy; None for a missing source."""
    for source in command.sources:
        bucket, key = begin_of(command, source)
        found = list(_pairs_of(source, command, state, bucket, key))
        if not found and not (bucket == LOCAL and _is_directory(state, key)) and not (key == "" and bucket):
            yield None
        for pair in found:
            if not (command.has("--exclude") and fnmatch.fnmatchcase(pair[2], EXCLUDED)):
                yield pair


def _pairs_of(source: str, command: Command, state: State, bucket: str, key: str) -> Iterator[tuple[Place, Place, str]]:
    if command.has("-r") and (bucket != LOCAL or _is_directory(state, key)):
        if bucket != LOCAL and key and not key.endswith("/") and (bucket, key) in state.digests:
            base = key.rpartition("/")[2]
            yield (bucket, key), _below(command, base), base
        prefix = tree_prefix(key)
        for relative in sorted(state.below(bucket, prefix)):
            yield (bucket, prefix + relative), _below(command, relative), relative
    elif (bucket, key) in state.digests:
        yield (bucket, key), _place_of(source, command, state), key.rpartition("/")[2]


def fits_disk(relative: str) -> bool:
    """Return whether a relative name can be a file's, and only its own."""
    parts = relative.split("/")
    return "\0" not in relative and not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)


def _copy(command: Command, state: State, _: Contents) -> Expectation:
    result = Expectation()
    moving = command.verb == "mv"
    pairs = list(iter_pairs(command, state))
    found = [pair for pair in pairs if pair is not None]
    if _overlaps(command) or _is_no_command(command, state):
        return _refused(result, found)
    if len(found) < len(pairs):
        result.codes = {3, 1} if len(pairs) > 1 else {3}
    _collect(result, command, state, found)
    if moving:
        for source, target in result.copies:
            if source == target or target in result.loose:
                continue
            if result.wanted[target] == frozenset([state.digests[source]]):
                result.wanted[source] = frozenset([None])
            else:
                result.loose.add(source)
        result.moves = list(result.copies)
    return result


def _collect(result: Expectation, command: Command, state: State, found: list[tuple[Place, Place, str]]) -> None:
    by_target: dict[Place, list[Place]] = {}
    is_named = _is_name(command, state)
    for source, target, relative in found:
        if target[0] == LOCAL and not ((is_named or fits_disk(relative)) and fits_disk(target[1].removeprefix("./"))):
            result.codes |= {1, 6}
            result.loose_below = split(command.target)[1]
            result.loose.add(source)
            continue
        end = (LOCAL, os.path.normpath(target[1])) if target[0] == LOCAL else target
        sources = by_target.setdefault(end, [])
        if source in sources:  # named twice, and perhaps gone when its second turn comes
            result.codes |= {1, 3, 6} if command.verb == "mv" else set()
        else:
            sources.append(source)
    for target, sources in by_target.items():
        result.copies += [(source, target) for source in sources]
        kept = state.digests.get(target)
        if len(sources) > 1 or _is_in_the_way(target, by_target, state):
            may_skip = command.has("-n", "-u")
            result.codes = (result.codes if may_skip else result.codes - {0}) | {1, 6}
            result.loose.add(target)
            result.loose.update(sources if command.verb == "mv" else ())
        elif command.has("-n") and kept is not None:
            result.wanted[target] = frozenset([kept])
            result.copies.remove((sources[0], target))
        elif command.has("-u") and kept is not None:
            result.wanted[target] = frozenset([kept, state.digests[sources[0]]])
            if command.verb == "mv":
                result.loose.add(sources[0])
        else:
            result.wanted[target] = frozenset([state.digests[sources[0]]])


def _is_in_the_way(target: Place, targets: dict[Place, list[Place]], state: State) -> bool:
    if target[0] != LOCAL:
        return False
    name = target[1]
    others = {other for room, other in (*targets, *state.digests) if room == LOCAL}
    parents = {name[:at] for at, character in enumerate(name) if character == "/"}
    return _is_directory(state, name) or bool(parents & others) or any(other.startswith(name + "/") for other in others)


def _overlaps(command: Command) -> bool:
    """Return whether a source tree and the target tree share keys: such a copy is refused."""
    target, key = split(command.target)
    for source in command.sources:
        bucket, name = begin_of(command, source)
        if bucket == LOCAL or bucket != target:
            continue
        if command.has("-r") or command.verb == "sync":
            start, end = tree_prefix(name), tree_prefix(key)
            if end.startswith(start) or start.startswith(end):
                return True
        elif _same_object(command, name, key):
            return True
    return False


def _same_object(command: Command, name: str, key: str) -> bool:
    base = name.rpartition("/")[2]
    many = len(command.sources) > 1
    return name == (tree_prefix(key) + base if many or not key or key.endswith("/") else key)


def _is_no_command(command: Command, state: State) -> bool:
    """Return whether the words make no sense: a directory without -r, two local sides."""
    if command.has("-r"):
        return False
    return any(not is_s3(each) and _is_directory(state, split(each)[1]) for each in command.sources)


def _refused(result: Expectation, found: list[tuple[Place, Place, str]]) -> Expectation:
    """A command that may be refused or done: nothing is lost, whichever it is."""
    result.codes = set(range(7))
    result.copies = [(source, target) for source, target, _ in found]
    # What another source is copied over is overwritten, as is everything that is in the way of a copy.
    over = {target for source, target in result.copies if source != target}
    result.moves = [pair for pair in result.copies if pair[0] not in over]
    result.loose = {place for source, target, _ in found for place in (source, target)}
    result.converges = False
    return result


# -- sync ----------------------------------------------------------------------------------


def _sync(command: Command, state: State, contents: Contents) -> Expectation:
    result = Expectation()
    (room, name), (other, key) = begin_of(command, command.sources[0]), split(command.target)
    if _overlaps(command):
        result = _refused(result, list(_tree_pairs(command, state)))
        result.loose |= {(other, tree_prefix(key) + rest) for rest in state.below(other, tree_prefix(key))}
        return result
    sources, targets = state.below(room, tree_prefix(name)), state.below(other, tree_prefix(key))
    if not sources and not (room == LOCAL and _is_directory(state, name)) and not (room != LOCAL and not name):
        result.codes = {3}
        return result
    _collect(result, command, state, list(_tree_pairs(command, state)))
    included = list(_tree_pairs(command, state))
    held = bool(result.loose or result.loose_below or not included)
    for source, target in result.copies:
        if target in result.wanted:
            result.wanted[target] = _synced(command, state, contents, (source, target))
    result.copies = [pair for pair in result.copies if state.digests[pair[0]] != state.digests.get(pair[1])]
    if command.has("--delete"):
        for relative in targets.keys() - sources.keys():
            if not (command.has("--exclude") and fnmatch.fnmatchcase(relative, EXCLUDED)):
                place = (other, tree_prefix(key) + relative)
                result.deletes.add(place)
                kept: set[Digest | None] = {state.digests[place]} if held else set()
                result.wanted[place] = frozenset(kept | {None})
        if not included:
            result.codes |= {2, 3, 6}
    return result


def _tree_pairs(command: Command, state: State) -> Iterator[tuple[Place, Place, str]]:
    (room, name), (other, key) = begin_of(command, command.sources[0]), split(command.target)
    for relative in sorted(state.below(room, tree_prefix(name))):
        if not (command.has("--exclude") and fnmatch.fnmatchcase(relative, EXCLUDED)):
            yield (room, tree_prefix(name) + relative), (other, tree_prefix(key) + relative), relative


def _synced(command: Command, state: State, contents: Contents, pair: tuple[Place, Place]) -> Allowed:
    source, target = pair
    new, old = state.digests[source], state.digests.get(target)
    if old is None or (contents.knows(old) and contents.size(old) != contents.size(new)):
        return frozenset([new, old]) if command.has("-u") and old is not None else frozenset([new])
    is_older = state.times[source] < state.times[target] - SLACK_S
    if command.has("--size-only", "-u") or (is_older and not command.has("--checksum")):
        return frozenset([new, old])
    return frozenset([new])


# -- the rest ------------------------------------------------------------------------------


def _keys_of(command: Command, state: State) -> tuple[set[Place], bool]:
    """Return the objects that rm or find means, and whether each source meant something."""
    found: set[Place] = set()
    complete = True
    for source in command.sources:
        bucket, key = split(source)
        if command.has("-r") or command.verb in ("find", "ls", "du"):
            prefix = tree_prefix(key)
            these = {(bucket, prefix + relative) for relative in state.below(bucket, prefix)}
            these |= {(bucket, key)} & state.digests.keys() if command.verb == "rm" else set()
        else:
            these = {(bucket, key)} & state.digests.keys()
        complete = complete and bool(these)
        found |= these
    if command.has("--exclude"):
        found = {place for place in found if not fnmatch.fnmatchcase(_relative(command, place), EXCLUDED)}
    if command.has("--name"):
        found = {place for place in found if fnmatch.fnmatchcase(place[1].rstrip("/").rpartition("/")[2], EXCLUDED)}
    return found, complete


def _relative(command: Command, place: Place) -> str:
    prefix = tree_prefix(split(command.sources[0])[1])
    return place[1][len(prefix) :] if place[1].startswith(prefix) else place[1].rpartition("/")[2]


def _remove(command: Command, state: State, _: Contents) -> Expectation:
    found, complete = _keys_of(command, state)
    result = Expectation(wanted=dict.fromkeys(found, frozenset([None])), deletes=found)
    result.codes = {0} if complete else {0, 3}
    return result


def _find(command: Command, state: State, contents: Contents) -> Expectation:
    if command.has("--delete"):
        return _remove(command, state, contents)
    found, complete = _keys_of(command, state)
    return Expectation(listing={f"s3/{bucket}/{key}" for bucket, key in found}, codes={0} if complete else {0, 3})


def _cat(command: Command, state: State, contents: Contents) -> Expectation:
    found, complete = _keys_of(command, state)
    if not complete:
        return Expectation(codes={3})
    return Expectation(output=contents.body(state.digests[next(iter(found))]))


def _pipe(command: Command, state: State, contents: Contents) -> Expectation:
    from tests.resilience.chaos.worlds import digest_of

    target = split(command.target)
    content = digest_of(contents.make(command.stdin_label, command.stdin_size))
    if command.has("-n") and target in state.digests:
        return Expectation(codes={0, 1, 6})
    return Expectation(wanted={target: frozenset([content])})


def _make(command: Command, state: State, _: Contents) -> Expectation:
    names = {split(each)[0] for each in command.sources}
    return Expectation(made=names, codes={0} if not names & state.buckets else {0, 1})


def _unmake(command: Command, state: State, _: Contents) -> Expectation:
    result = Expectation()
    for bucket in (split(each)[0] for each in command.sources):
        held = [place for place in state.digests if place[0] == bucket]
        if bucket not in state.buckets:
            result.codes = {3}
        elif held and not command.has("--force"):
            result.codes = {1}
        else:
            result.unmade.add(bucket)
            result.wanted.update(dict.fromkeys(held, frozenset([None])))
    return result


_EFFECTS: dict[str, Callable[[Command, State, Contents], Expectation]] = {
    "cp": _copy,
    "mv": _copy,
    "sync": _sync,
    "rm": _remove,
    "find": _find,
    "ls": _find,
    "du": _find,
    "cat": _cat,
    "pipe": _pipe,
    "mb": _make,
    "rb": _unmake,
}
