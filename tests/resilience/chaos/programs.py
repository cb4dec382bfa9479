"""Random programs: worlds, commands and what goes wrong, all from one seed."""

from __future__ import annotations

import random
import shlex
from dataclasses import dataclass, field, replace

from tests.resilience.chaos.effects import EXCLUDED, OTHER, Command, begin_of
from tests.resilience.chaos.faults import HONEST, UNSIGNED_ONLY, Rule
from tests.resilience.chaos.worlds import (
    HOSTILE_NAMES,
    LARGE_SIZES,
    LOCAL,
    PLAIN_NAMES,
    SIZES,
    TRAP_NAMES,
    Place,
    Planted,
)

PREFIXES = ("p", "q/r", "p2", "deep/er/still")
DIRECTORIES = ("d1", "d2", "got")
NODES = 3


@dataclass(frozen=True)
class Step:
    """What is planted, the command, what goes wrong meanwhile, and whether it is run again in peace."""

    planted: tuple[Planted, ...]
    command: Command
    rules: tuple[Rule, ...] = ()
    rerun: bool = True


@dataclass(frozen=True)
class Program:
    """A world and its steps."""

    seed: int
    buckets: dict[str, bool]
    page_keys: int
    proxied: bool
    steps: tuple[Step, ...]

    def transcript(self) -> str:
        """Return the program in the manner of a shell session."""
        way = ", through the proxy" if self.proxied else ""
        lines = [f"# seed {self.seed}, pages of {self.page_keys or 1000} keys{way}"]
        lines += [f"s3pool mb s3/{name}{' --versioning' if kept else ''}" for name, kept in self.buckets.items()]
        for number, step in enumerate(self.steps, 1):
            lines.append(f"# step {number}")
            lines += [_planting(planted) for planted in step.planted]
            lines += [f"#   meanwhile: {rule.words()}" for rule in step.rules]
            source = f"make {step.command.stdin_label} {step.command.stdin_size} | " if step.command.stdin_label else ""
            lines.append(source + shlex.join(["s3pool", *step.command.argv()]))
        return "\n".join(lines)


def _planting(planted: Planted) -> str:
    bucket, key = planted.place
    name = shlex.quote(key if bucket == LOCAL else f"s3/{bucket}/{key}")
    if not planted.label:
        return f"remove {name}"
    return f"make {planted.label} {planted.size} > {name}   # {planted.age_s:g} s old"


@dataclass
class _Maker:
    """The dice, and what the programs are made of."""

    dice: random.Random
    buckets: tuple[str, ...]
    signed: bool
    names: list[str] = field(default_factory=list)
    labels: int = 0
    large_left: int = 0

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def label(self) -> str:
        self.labels += 1
        return f"c{self.labels}"

    def size(self) -> int:
        if self.large_left and self.chance(0.3):
            self.large_left -= 1
            return self.dice.choice(LARGE_SIZES)
        return self.dice.choice(SIZES)

    def age(self) -> float:
        return self.dice.choice((0.0, 0.0, 0.5, 3.0, 3600.0, 86_400.0 * 40))

    def some_names(self, most: int, *, local: bool) -> list[str]:
        usable = [name for name in self.names if not local or name not in TRAP_NAMES]
        return self.dice.sample(usable, min(len(usable), self.dice.randint(1, most)))

    def tree(self, root: str, most: int = 6) -> list[Planted]:
        """Plant some names below a prefix (s3/...) or a directory."""
        place = _split(root)
        names = self.some_names(most, local=place[0] == LOCAL)
        return [
            Planted(_join(place, name), self.label(), self.size(), self.age() if place[0] == LOCAL else 0.0)
            for name in names
        ]

    def prefix(self) -> str:
        return f"s3/{self.dice.choice(self.buckets)}/{self.dice.choice(PREFIXES)}"

    def directory(self) -> str:
        return self.dice.choice(DIRECTORIES)


def _split(text: str) -> Place:
    from tests.resilience.chaos.effects import split

    return split(text)


def _join(place: Place, name: str) -> Place:
    bucket, key = place
    return bucket, f"{key}/{name}" if key else name


def make_program(seed: int, buckets: tuple[str, ...], *, signed: bool = False, steps: int = 0) -> Program:
    """Return the program of a seed."""
    dice = random.Random(seed)
    maker = _Maker(dice, buckets, signed)
    maker.names = [*PLAIN_NAMES, *dice.sample(HOSTILE_NAMES, 5)]
    if maker.chance(0.25):
        maker.names += dice.sample(TRAP_NAMES, 3)
    maker.large_left = 2 if maker.chance(0.25) else 0
    kept = {name: maker.chance(0.3) for name in buckets}
    page_keys = 0 if signed else dice.choice((0, 0, 2, 5))
    made = tuple(_step(maker) for _ in range(steps or dice.randint(2, 5)))
    return Program(seed, kept, page_keys, dice.random() < 0.15, made)


def _step(maker: _Maker) -> Step:
    kinds = ("cp", "mv", "sync", "rm", "find", "ls", "du", "cat", "pipe", "mb", "rb")
    weights = (22, 26, 26, 8, 6, 4, 2, 4, 5, 1, 2)
    verb = maker.dice.choices(kinds, weights)[0]
    planted, command = _MAKERS.get(verb, _transfer)(maker, verb)
    command = replace(command, flags=(*command.flags, *_common_flags(maker, verb)))
    rules = _rules(maker, command, planted) if maker.chance(0.75) else ()
    return Step(tuple(planted), command, tuple(rules))


def _common_flags(maker: _Maker, verb: str) -> list[str]:
    flags = ["--json"] if maker.chance(0.7) and verb not in ("cat",) else []
    if maker.chance(0.3):
        flags += ["--workers", maker.dice.choice(("1", "3", "16"))]
    if verb in ("cp", "mv", "sync", "rm", "find", "ls", "du", "rb") and maker.chance(0.2):
        flags += ["--jobs", maker.dice.choice(("1", "4"))]
    if verb in ("cp", "mv", "sync", "rm") and maker.chance(0.04):
        flags.append("--dry-run")
    if verb in ("cp", "mv", "sync", "pipe") and maker.large_left is not None and maker.chance(0.5):
        flags += ["--part-size", "5M"]
    return flags


def _transfer(maker: _Maker, verb: str) -> tuple[list[Planted], Command]:
    flags: list[str] = []
    way = maker.dice.choice(("up", "down", "inside"))
    source = maker.directory() if way == "up" else maker.prefix()
    target = maker.directory() if way == "down" else maker.prefix()
    planted = maker.tree(source)
    if maker.chance(0.5) or verb == "sync":
        planted += maker.tree(target, 4)
    if maker.chance(0.2):
        flags += ["--exclude", EXCLUDED]
    if way == "inside" and maker.chance(0.35):
        flags += ["--source-profile", "alias"]
    elif way == "inside" and maker.chance(0.25):
        flags += ["--source-profile", "other"]
        planted = [replace(each, place=(OTHER + each.place[0], each.place[1])) for each in maker.tree(source)]
        planted += maker.tree(target, 4) if maker.chance(0.5) else []
    if verb == "sync":
        flags += _sync_flags(maker)
        if maker.chance(0.35):  # the target knows some of them already
            planted += _older_twins(maker, planted, source, target)
        return planted, Command(verb, (source,), target, tuple(flags))
    flags += ["-n"] if maker.chance(0.06) else ["-u"] if maker.chance(0.06) else []
    shape = maker.dice.choice(("tree", "tree", "tree", "one", "one", "several", "trees"))
    if shape == "tree":
        return planted, Command(verb, (source,), target, (*flags, "-r"))
    if shape == "trees":
        other = (
            next(each for each in (*DIRECTORIES, *PREFIXES) if each not in source) if way == "up" else maker.prefix()
        )
        more = maker.tree(other, 3)
        away = "other" in flags
        planted += [replace(each, place=(OTHER + each.place[0], each.place[1])) if away else each for each in more]
        return planted, Command(verb, (source, other), target, (*flags, "-r"))
    return _singles(maker, verb, planted, source, target, flags, shape)


def _singles(
    maker: _Maker, verb: str, planted: list[Planted], source: str, target: str, flags: list[str], shape: str
) -> tuple[list[Planted], Command]:
    bucket, key = begin_of(Command(verb, flags=tuple(flags)), source)
    own = [each.place for each in planted if each.place[0] == bucket and each.place[1].startswith(f"{key}/")]
    own = [place for place in own if not place[1].endswith("/")]
    chosen = maker.dice.sample(own, min(len(own), 1 if shape == "one" else 3)) or [(bucket, f"{key}/nothing")]
    texts = [key if room == LOCAL else f"s3/{room.removeprefix(OTHER)}/{key}" for room, key in chosen]
    sources = tuple(dict.fromkeys(texts))
    end = f"{target}/" if maker.chance(0.5) or len(sources) > 1 else f"{target}/new name"
    if any(character in text for text in sources for character in "*?["):
        flags = [*flags, "--no-glob"]
    return planted, Command(verb, sources, end, tuple(flags))


def _sync_flags(maker: _Maker) -> list[str]:
    flags = ["--delete"] if maker.chance(0.5) else []
    choice = maker.dice.random()
    if choice < 0.15:
        flags.append("--checksum")
    elif choice < 0.2:
        flags.append("--size-only")
    elif choice < 0.25:
        flags.append("-u")
    return flags


def _older_twins(maker: _Maker, planted: list[Planted], source: str, target: str) -> list[Planted]:
    """Plant other contents of the same size, or the same contents, where the sources will go."""
    begin, end = planted[0].place, _split(target)
    begin = begin[0], _split(source)[1]
    twins = []
    for each in planted:
        if each.place[0] == begin[0] and each.place[1].startswith(f"{begin[1]}/") and maker.chance(0.6):
            name = each.place[1][len(begin[1]) + 1 :]
            if end[0] == LOCAL and name in TRAP_NAMES:
                continue
            label = each.label if maker.chance(0.4) else maker.label()
            twins.append(Planted(_join(end, name), label, each.size, maker.age()))
    return twins


def _remove(maker: _Maker, verb: str) -> tuple[list[Planted], Command]:
    root = maker.prefix()
    planted = maker.tree(root)
    if verb == "rm" and maker.chance(0.4):
        keys = [each.place for each in planted if not each.place[1].endswith("/")]
        sources = tuple(f"s3/{bucket}/{key}" for bucket, key in dict.fromkeys(keys[:3])) or (f"{root}/nothing",)
        return planted, Command(verb, sources, "", ("--no-glob",))
    flags = ["-r", "--force"] if verb == "rm" else []
    if verb == "rm" and maker.chance(0.2):
        flags += ["--exclude", EXCLUDED]
    if verb == "find":
        flags += ["--name", EXCLUDED] if maker.chance(0.5) else []
        flags += ["--delete"] if maker.chance(0.6) else []
    if verb == "ls":
        flags.append("-r")
    return planted, Command(verb, (f"{root}/",), "", tuple(flags))


def _cat(maker: _Maker, _: str) -> tuple[list[Planted], Command]:
    planted = maker.tree(maker.prefix(), 3)
    bucket, key = maker.dice.choice(planted).place
    return planted, Command("cat", (f"s3/{bucket}/{key}",), "", ("--no-glob",))


def _pipe(maker: _Maker, _: str) -> tuple[list[Planted], Command]:
    root = maker.prefix()
    planted = maker.tree(root, 2) if maker.chance(0.5) else []
    name = maker.dice.choice([name for name in maker.names if name not in TRAP_NAMES])
    return planted, Command("pipe", (), f"{root}/{name}", (), maker.label(), maker.size())


def _bucket(maker: _Maker, verb: str) -> tuple[list[Planted], Command]:
    if verb == "mb":
        return [], Command("mb", (f"s3/{maker.buckets[0]}-new",))
    bucket = maker.dice.choice(maker.buckets)
    planted = maker.tree(f"s3/{bucket}/p", 4)
    return planted, Command("rb", (f"s3/{bucket}",), "", ("--force",) if maker.chance(0.6) else ())


_MAKERS = {
    "rm": _remove,
    "find": _remove,
    "ls": _remove,
    "du": _remove,
    "cat": _cat,
    "pipe": _pipe,
    "mb": _bucket,
    "rb": _bucket,
}


def _rules(maker: _Maker, command: Command, planted: list[Planted]) -> list[Rule]:
    from tests.resilience.chaos.trouble import make_rules

    return make_rules(maker.dice, command, planted, signed=maker.signed, label=maker.label, nodes=NODES)


def is_of_one_node(rules: tuple[Rule, ...]) -> bool:
    """Return whether every fault is of the network or one sick node, and another node is well."""
    return bool(rules) and all(rule.kind in HONEST and rule.node == rules[0].node is not None for rule in rules)


def needs_unsigned(rules: tuple[Rule, ...]) -> bool:
    """Return whether a fault changes requests, so that signatures would break."""
    return any(rule.kind in UNSIGNED_ONLY for rule in rules)
