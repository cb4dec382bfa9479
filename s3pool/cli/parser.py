"""The names of all commands, and the argument parsers: global flags here, those of each command in its module.

``parse`` reads a command line and imports only the command that it names.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn, TypeVar

from s3pool.cli.output import TABLE
from s3pool.config.options import SOURCES, Config, Option
from s3pool.errors import S3PoolError, UsageError
from s3pool.units import parse_duration, parse_size

# The commands, which are modules of these names in cli/commands but for MODULES, and what each is for.
GROUPS = {
    "look": {
        "ls": "list buckets, objects and prefixes",
        "tree": "draw the directories below a prefix",
        "find": "find objects by name, size and age",
        "stat": "show everything about objects, buckets and prefixes",
        "du": "count objects and bytes",
        "head": "show the first lines or bytes of objects",
        "cat": "write objects to standard output",
        "diff": "show what differs between two trees",
        "check": "prove that two trees, or all nodes, hold the same",
    },
    "copy, move and delete": {
        "cp": "copy files and objects, to and from S3 and inside it",
        "mv": "move files and objects: copy, verify, then delete",
        "sync": "make a directory or prefix like another one",
        "mirror": "sync with the flags of mc mirror",
        "pipe": "store standard input as an object",
        "rm": "delete objects",
        "undo": "bring keys, prefixes or versioned buckets back to how they were",
    },
    "buckets, and what they and objects are set to": {
        "mb": "make buckets",
        "rb": "remove buckets",
        "tag": "show, set and remove the tags of objects and buckets",
        "version": "show, enable and suspend the versions of buckets",
        "retention": "show, set and clear how long objects are kept",
        "legalhold": "show legal holds of objects, and put them on and off",
        "policy": "show, set and remove the policies of buckets",
        "anonymous": "show and set what anybody may do without keys",
        "ilm": "show and change the lifecycle rules of buckets",
        "cors": "show, set and remove the CORS rules of buckets",
        "encrypt": "show, set and remove the default encryption of buckets",
        "restore": "ask for copies of archived objects",
    },
    "the pool": {
        "ping": "show the health of every endpoint",
        "speedtest": "measure transfers and listings per node, and name the slow one",
        "proxy": "serve the pool as one S3 endpoint",
        "presign": "make a URL that works without credentials for a while",
        "config": "show each setting and its origin, or import those of other tools",
    },
    "many commands, many machines": {
        "run": "run many commands, one a line, in one process",
        "shards": "print a plan of key ranges for --shard and --plan",
        "print": "print a systemd unit, manifest, dashboard or alert rules",
        "completion": "print a completion script for a shell",
    },
}
SUMMARIES = {name: summary for group in GROUPS.values() for name, summary in group.items()}
ALL = tuple(SUMMARIES)
# The commands that are rows of one table, and the modules of those that have none of their own.
SETTINGS = ("tag", "version", "retention", "legalhold", "policy", "anonymous", "ilm", "cors", "encrypt", "restore")
_SHARED = (
    *(("cat", "head"), ("cp", "mv pipe"), ("diff", "check"), ("du", "tree"), ("mb", "rb"), ("stat", "presign")),
    *(("sync", "mirror"), ("print", "completion shards"), ("settings", " ".join(SETTINGS))),
)
MODULES = {name: module for module, names in _SHARED for name in names.split()}
CHANGING = frozenset(
    ("config", "cp", "mv", "sync", "mirror", "rm", "undo", "run", "find", "pipe", "mb", "rb", "speedtest", *SETTINGS)
)

WHAT = "A fast S3 client for storage that is a cluster of nodes"
DESCRIPTION = f"{WHAT}: every request may use another node."
ALIKE = "show and change these settings; restore what is archived"
PATHS_HELP = "Paths: s3/BUCKET/KEY or s3://BUCKET/KEY; a local path that starts with s3/ is written ./s3/."
HELP_POSITION = 26  # the column where the explanations of flags start
OPERAND_MARK = "\0"  # no word of a command line can hold it
WIDTH = 80  # of help that goes to a file or a pipe
MOST_WIDTH = 100  # lines that are longer are hard to read
FIRST_EXAMPLES = (
    "ping                                   # which nodes answer?",
    "cp -r photos s3/backup/photos          # store a tree",
    "sync --delete photos s3/backup/photos  # make the copy follow it",
)

_T = TypeVar("_T")


class Command(NamedTuple):
    """One of the commands of a module in cli/commands; a module of a single one has these names itself."""

    EXAMPLES: Sequence[str]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Any], int]


class HelpRequested(Exception):
    """-h, --help or the command ``help`` was given; ``text`` is the help, ``page`` a manual page to prefer."""

    def __init__(self, text: str, *, page: str = "") -> None:
        super().__init__("help")
        self.text, self.page = text, page


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's formatter."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_POSITION, width=_terminal_width())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Keep lines as they are, but for those that are too long."""
        from textwrap import fill

        return "\n".join(
            fill(line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            if len(line) > width
            else f"{indent}{line}"
            for line in text.splitlines()
        )


@functools.cache  # argparse makes a formatter for every flag
def _terminal_width() -> int:
    try:
        return min(max(os.get_terminal_size(1).columns - 2, WIDTH // 2), MOST_WIDTH)
    except OSError:
        return WIDTH


MOST_LINES = 48  # two screens
UNNAMED = (None, "positional arguments", "options", "global flags")
# The flag with which each group of the global ones begins.
GLOBAL_SECTIONS = {
    "--endpoints": "the nodes",
    "--access-key": "keys and certificates",
    "--config": "where settings are kept",
    "--addressing": "requests",
    "--tracing": "what is told",
}
FILTERS, COPYING, STORED = "which objects and files", "how they are copied", "what is stored with them"
LISTINGS = "long listings, many machines"


def section(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Return the group of flags with a title, made at its first use."""
    made = (each for each in parser._action_groups if each.title == title)
    return next(made, None) or parser.add_argument_group(title)


def switch(place: argparse._ActionsContainer, *names: str, help: str) -> None:
    """Add a flag that takes no value to a parser or a group."""
    place.add_argument(*names, action="store_true", help=help)


def text_flag(place: argparse._ActionsContainer, name: str, metavar: str, *, help: str) -> None:
    """Add a flag whose value is a text, "" without it."""
    place.add_argument(name, default="", metavar=metavar, help=help)


def _flag_names(group: argparse._ArgumentGroup) -> str:
    """Return the names of a group's flags in one line."""
    flags = (action.option_strings[-1] for action in group._group_actions if action.help != argparse.SUPPRESS)
    return f"{group.title}: {' '.join(flags)}"


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError and accepts no abbreviated flags."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Formatter)
        super().__init__(add_help=False, allow_abbrev=False, **settings)
        self.add_argument("-h", "--help", action="help", help="show this help and exit")

    def print_help(self, *_file: object) -> NoReturn:
        """Raise HelpRequested: the caller handles a closed or full stdout."""
        raise HelpRequested(self.format_help())

    def format_help(self) -> str:
        """Return the help, on two screens: the flags of the last groups are only named where they do not fit."""
        text, groups = super().format_help(), self._action_groups
        folded: list[argparse._ArgumentGroup] = []
        foldable = [group for group in groups if group.title not in UNNAMED]
        while text.count("\n") > MOST_LINES and foldable:
            folded.insert(0, foldable.pop())
            title = f"more, which {' help '.join(self.prog.split()) if ' ' in self.prog else 's3pool help'} explains"
            more = argparse._ArgumentGroup(self, title, "\n".join(map(_flag_names, folded)))
            self._action_groups = [*(group for group in groups if group not in folded), more]
            text = super().format_help()
        self._action_groups = groups
        return text

    def error(self, message: str) -> NoReturn:
        """Refuse the command line. Raises UsageError: always."""
        raise UsageError(f"{message}; see {self.prog} --help")


def argument_type(convert: Callable[[str], _T], name: str) -> Callable[[str], _T]:
    """Return a converter for ``type=`` whose errors argparse reports with the flag, a ValueError by ``name``."""

    def converted(text: str) -> _T:
        try:
            return convert(text)
        except S3PoolError as exc:
            raise argparse.ArgumentTypeError(exc.message) from exc

    converted.__name__ = name
    return converted


size_in_bytes = argument_type(parse_size, "size")
seconds = argument_type(parse_duration, "duration")


def _whole_number(least: int, complaint: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{complaint}, not {number}")
        return number

    read.__name__ = "number"  # for argparse's own "invalid ... value" message
    return read


positive_int = _whole_number(1, "must be at least 1")
natural_int = _whole_number(0, "must not be negative")


def add_global_flags(parser: argparse.ArgumentParser, *, shown: Collection[str] | None = None) -> None:
    """Add the flags that every command takes.

    None has a default: a flag that was not given sets nothing, so that the parser of the command does not overwrite a
    flag given before the command. The help has those in ``shown``, all when it is None.
    """
    group = parser.add_argument_group("global flags")

    def flag(*names: str, help: str, **settings: Any) -> None:
        nonlocal group
        if names[0] in GLOBAL_SECTIONS and shown is None:
            group = section(parser, GLOBAL_SECTIONS[names[0]])
        text = help if shown is None or names[0] in shown else argparse.SUPPRESS
        group.add_argument(*names, default=argparse.SUPPRESS, help=text, **settings)

    for option in Config.OPTIONS:
        if option is Config.addressing:
            for source in SOURCES:
                flag(source.flag, metavar=source.metavar, help=source.help)
        if option.flag:
            flag(option.flag, help=option.flag_help, **argparse_settings(option))
    _add_output_flags(flag)


def argparse_settings(option: Option[Any]) -> dict[str, Any]:
    """Return the settings of an option's flag for argparse; the option itself parses the value."""
    if option.switch is not None:
        return {"action": "store_true"}
    settings: dict[str, Any] = {"type": str.lower, "choices": option.choices} if option.choices else {}
    if option.metavar:
        settings["metavar"] = option.metavar
    return {**settings, "action": "append"} if option.repeatable else settings


def _add_output_flags(flag: Callable[..., None]) -> None:
    flag("--json", action="store_true", help="one JSON object a line, for results and errors")
    flag("-q", "--quiet", action="store_true", help="no notes, no progress, no line per act; errors stay")
    flag("-v", "--verbose", action="store_true", help="log every attempt (as --log-level debug)")
    flag("--log-format", choices=("text", "json"), help="of logs and errors on stderr (text; json with --json)")
    flag("--progress", choices=("auto", "bar", "plain", "none"), help="of transfers, on stderr (auto)")
    flag("--color", choices=("auto", "always", "never"), help="colours (auto: on a terminal without NO_COLOR)")
    flag(
        "--stats", action="store_true", help="at the end, requests and failures per endpoint and of listings, on stderr"
    )
    flag("--dry-run", action="store_true", help="say what would be done, change nothing")
    flag("--version", action="store_true", help="show the version and exit")


def load_command(name: str) -> Any:
    """Return a command: its module, or its row of the table in a module of several."""
    module = import_module(f"s3pool.cli.commands.{MODULES.get(name, name)}")
    return getattr(module, "COMMANDS", {}).get(name, module)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line, flags before and after the command alike; ``command`` is empty when none was named."""
    try:
        return _parse(argv)
    except UsageError as exc:
        from s3pool.cli.foreign import explained, ours

        index, command = _find_command(argv)
        name, words = ours(command, argv[index + 1 :])
        if (name, words) != (command, list(argv[index + 1 :])):
            return parse([*argv[:index], name, *words])
        options = command_parser(command)._option_string_actions if command in SUMMARIES else ()
        raise explained(exc, command, options) from exc


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    index, command = _find_command(argv)
    namespace = top_parser().parse_args([word for word in argv[:index] if word != "--"])
    namespace.command = command
    rest = list(argv[index + 1 :])
    if namespace.command == "help":
        if not rest:
            raise HelpRequested(help_text(), page="s3pool")
        require_known(rest[0])
        text = argparse.ArgumentParser.format_help(command_parser(rest[0]))  # all of it, where there is no man
        raise HelpRequested(text, page=f"s3pool-{rest[0]}")
    if not namespace.command:
        return namespace
    require_known(namespace.command)
    parser = command_parser(namespace.command)
    return _unmask(parser.parse_intermixed_args(_mask(rest), namespace=namespace))


def command_in(argv: Sequence[str]) -> str:
    """Return the word in the place of the command; empty when there is none."""
    return _find_command(argv)[1]


def _mask(words: list[str]) -> list[str]:
    """Drop ``--`` and mark each later word that looks like a flag.

    argparse ignores a ``--`` before the first operand when flags and operands are mixed, and
    would take the operand ``-r`` for a flag.
    """
    if "--" not in words:
        return words
    end = words.index("--")
    return words[:end] + [f"{OPERAND_MARK}{word}" if word.startswith("-") else word for word in words[end + 1 :]]


def _unmask(namespace: argparse.Namespace) -> argparse.Namespace:
    for name, value in vars(namespace).items():
        if isinstance(value, str):
            setattr(namespace, name, value.removeprefix(OPERAND_MARK))
        elif isinstance(value, list):
            setattr(namespace, name, [v.removeprefix(OPERAND_MARK) if isinstance(v, str) else v for v in value])
    return namespace


@functools.cache  # a script has many lines of one command
def command_parser(name: str) -> CommandParser:
    """Return the parser of one command; it accepts the global flags without showing them."""
    command = load_command(name)
    parser = CommandParser(
        prog=f"s3pool {name}",
        description=f"{SUMMARIES[name][0].upper()}{SUMMARIES[name][1:]}.{_example_lines(command.EXAMPLES)}",
        epilog="Global flags (s3pool help) work here as well.",
    )
    command.add_arguments(parser)
    parser.usage = f"{parser.prog} [flags] {operands_of(parser)}".rstrip()
    add_global_flags(parser, shown=("--dry-run",) if name in CHANGING else ())
    return parser


def operands_of(parser: argparse.ArgumentParser) -> str:
    """Return the operands of a command as its usage shows them."""
    forms = {None: "{0}", "?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
    operands = (action for action in parser._actions if not action.option_strings)
    return " ".join(forms[action.nargs].format(action.metavar) for action in operands if action.metavar)  # type: ignore[index]


def _example_lines(lines: Sequence[str]) -> str:
    return "".join(["\n\nexamples:", *(f"\n  s3pool {line}" for line in lines)]) if lines else ""


def require_known(name: str) -> None:
    """Check a command's name. Raises UsageError: there is no such command; the message offers a similar one."""
    if name in SUMMARIES:
        return
    from difflib import get_close_matches

    near = get_close_matches(name, ALL, n=1)
    hint = f"did you mean {near[0]}?" if near else "see s3pool --help"
    raise UsageError(f"unknown command {name!r}; {hint}")


def help_text() -> str:
    """Return all that s3pool says of itself, without importing a command."""
    codes = "\n".join(f"  {code:<5}{meaning}" for code, meaning in TABLE)
    epilog = f"{PATHS_HELP}\n's3pool COMMAND --help' explains a command.\n\nexit codes:\n{codes}"
    return argparse.ArgumentParser.format_help(_whole_parser(f"{DESCRIPTION}\n\n{_command_lines()}", epilog=epilog))


def short_help() -> str:
    """Return the help of s3pool on two screens: global flags are named alone."""
    parser = _whole_parser(f"{WHAT}.\n\n{_command_lines(is_short=True)}")
    parser._option_string_actions["--help"].help = argparse.SUPPRESS  # it is known
    return parser.format_help()


def overview() -> str:
    """Return what s3pool alone prints: the commands, and how to begin."""
    more = "s3pool COMMAND --help explains a command, s3pool help the global flags."
    return f"{WHAT}.\n\n{_command_lines()}{_example_lines(FIRST_EXAMPLES)}\n\n{more}"


def _whole_parser(description: str = "", *, epilog: str = "") -> CommandParser:
    usage = "s3pool [global flags] COMMAND [flags] [operands]"
    parser = CommandParser(prog="s3pool", usage=usage, description=description, epilog=epilog)
    add_global_flags(parser)
    return parser


@functools.cache
def top_parser() -> CommandParser:
    """Return the parser of the flags that stand before a command."""
    parser = _whole_parser()
    parser.format_help = short_help  # type: ignore[method-assign]
    return parser


def _find_command(argv: Sequence[str]) -> tuple[int, str]:
    """Return the index of the first word that is neither a flag nor a flag's value, and the word."""
    with_value = {name for action in top_parser()._actions if action.nargs is None for name in action.option_strings}
    index = 0
    while index < len(argv) and argv[index].startswith("-") and argv[index] != "-":
        index += 2 if argv[index] in with_value else 1
    return index, argv[index] if index < len(argv) else ""


def _command_lines(*, is_short: bool = False) -> str:
    width = max(map(len, SUMMARIES)) + 2
    parts = []
    for group, names in GROUPS.items():
        alike = SETTINGS if is_short and SETTINGS[0] in names else ()
        rows = [f"\n  {name:<{width}}{names[name]}" for name in names if name not in alike]
        named = f"\n  {' '.join(alike)}\n  {'':<{width}}{ALIKE}" if alike else ""
        parts.append(f"{group}:{''.join(rows)}{named}")
    return ("\n" if is_short else "\n\n").join(parts)
