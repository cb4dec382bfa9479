"""s3pool print, shards and completion: what other programs, machines and shells read.

The script of a completion holds the names of commands and flags. For anything else it runs ``s3pool completion
SHELL -- WORD...`` with the words before the cursor, and offers the lines that come back. ``FILES`` in the first line
asks the shell for the names of local files as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from s3pool import __version__
from s3pool.cli.context import NAMED, Context
from s3pool.cli.parser import ALL, SUMMARIES, Command, command_in, command_parser, positive_int, text_flag, top_parser
from s3pool.errors import S3PoolError, UsageError
from s3pool.filters import plan_record
from s3pool.location import LocalPath, S3Path, parse_s3

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

# The names of the operand, the files in s3pool/files, and what each is.
PAGES = {
    "systemd": ("systemd-proxy.service", "unit of the proxy"),
    "systemd-sync": ("systemd-sync.service", "unit of one sync"),
    "systemd-timer": ("systemd-sync.timer", "timer that starts the sync"),
    "kubernetes": ("kubernetes.yaml", "Deployment and Service of the proxy"),
    "kubernetes-job": ("kubernetes-job.yaml", "sync by an Indexed Job"),
    "slurm": ("slurm.sbatch", "sync by a Slurm array"),
    "grafana": ("grafana.json", "dashboard of the proxy and of syncs"),
    "alerts": ("alerts.yaml", "alert rules for Prometheus"),
    "containerfile": ("containerfile", "image for podman or docker"),
}


def _add_page(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {meaning}" for name, (_, meaning) in PAGES.items())
    parser.add_argument("page", choices=tuple(PAGES), metavar="NAME", help=listed)


def _print_page(args: argparse.Namespace, ctx: Context) -> int:
    ctx.out.line(page(args.page).rstrip("\n"))
    return 0


def page(name: str) -> str:
    """Return the text of a file, with the place of this program and its version."""
    from importlib import resources  # a shell waits for completion, which needs none of this
    from shutil import which

    called = os.path.abspath(sys.argv[0])
    program = called if os.path.basename(called) == "s3pool" else which("s3pool") or "/usr/bin/s3pool"
    text = (resources.files("s3pool") / "files" / PAGES[name][0]).read_text("utf-8")
    return text.replace("@PROGRAM@", program).replace("@VERSION@", __version__)


def _add_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the tree to divide: s3/BUCKET/PREFIX")
    parser.add_argument("--into", type=positive_int, required=True, metavar="N", help="so many shards of like size")
    text_flag(parser, "--local", "DIR", help="divide by the files below DIR: for a target that is empty")


def _print_plan(args: argparse.Namespace, ctx: Context) -> int:
    """Sample the tree and print one JSON object for each range."""
    path = ctx.s3(args.path)
    if not path.bucket:
        raise UsageError("shards needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    tree: S3Path | LocalPath = path
    if args.local:
        place = ctx.location(args.local)
        if not isinstance(place, LocalPath):
            raise UsageError(f"--local {args.local}: a directory of this machine is needed")
        tree = place
    from s3pool.cli.selection import make_plan

    plan = make_plan(ctx, tree, args.into)
    if args.into > 1 and plan[-1].after == "":
        what = f"nothing was found below {tree.text}, so that one shard has everything"
        advice = "" if args.local else "; --local DIR divides by a directory that is to be copied there"
        ctx.out.warn(f"{what}{advice}")
    for index, names in enumerate(plan):
        ctx.out.record(plan_record(index, len(plan), names))
    return 0


SHELLS = ("bash", "zsh", "fish", "tcsh")
LIMIT_S = 1.0  # a shell that waits for a silent cluster is worse than one that offers nothing
LIMIT_NAME = "S3POOL_COMPLETION_TIMEOUT"
CACHED_S = 30.0
MOST = 1000  # names, which is one page
SUPPRESSED = argparse.SUPPRESS
FILES = "+files"
FILE_VALUES = frozenset(("FILE", "DIR", "PATH", "KEYFILE"))  # metavars of flags that take local names
PROFILE_VALUES = frozenset(("--profile", "--source-profile", "--target-profile"))

# What each command takes as operands, where it is not a path in S3.
LOCAL = frozenset(("cp", "mv", "sync", "mirror", "diff", "check"))  # paths on both sides
ONLY_FILES = frozenset(("run",))
ONLY_BUCKETS = frozenset(("mb", "rb"))
NO_PATHS = frozenset(("ping", "config", "completion", "proxy", "print"))


class _TooLongError(BaseException):
    """The time is over; no handler of errors may take it for one of theirs."""


def _add_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh, fish or tcsh")
    parser.add_argument("typed", nargs="*", metavar="WORD", help="after --: print what may follow these words")


def _complete(args: argparse.Namespace, ctx: Context) -> int:
    """Print the script of a shell, or the candidates for the last word of a command line."""
    if not args.typed:
        ctx.out.line(_script(args.shell).rstrip("\n"))
        return 0
    words, strip = args.typed, 0
    if args.shell in ("bash", "tcsh"):
        words = _split(args.typed[0])
        # bash takes : and = for ends of words, and replaces only what follows the last of them.
        strip = max(words[-1].rfind(":"), words[-1].rfind("=")) + 1 if args.shell == "bash" else 0
    found = _limited(_candidates(words, ctx), _limit_s(ctx.environ))
    if args.shell == "tcsh":  # it offers only what a program prints
        found = [each for name in found for each in (_local_names(words[-1]) if name == FILES else [name])]
    for candidate in found:
        ctx.out.line(candidate if candidate == FILES else candidate[strip:])
    return 0


def _limit_s(environ: Mapping[str, str]) -> float:
    try:
        return max(0.1, float(environ.get(LIMIT_NAME, "")))
    except ValueError:
        return LIMIT_S


def _limited(candidates: Iterable[str], limit_s: float) -> list[str]:
    """Return what is found within the limit and before an error, which no prompt should show."""
    found: list[str] = []

    def give_up(*_: object) -> NoReturn:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        found.extend(candidates)
    except (_TooLongError, S3PoolError, OSError):
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found


def _split(line: str) -> list[str]:
    """Split a line as a shell does; the last word may lack its closing quote, or be empty."""
    import shlex

    for closing in ("", "'", '"', "\\"):
        try:
            words = shlex.split(f"{line}|{closing}")  # the mark keeps an empty last word, and blanks before the cursor
        except ValueError:
            continue
        return [*words[1:-1], words[-1].replace("|", "")]
    return [""]


def _candidates(words: Sequence[str], ctx: Context) -> Iterator[str]:
    *before, current = words
    command = command_in(before)
    if current.startswith("-") and "=" not in current:
        return  # the script itself knows the flags
    flag, value = current.split("=", 1) if current.startswith("-") else (before[-1] if before else "", current)
    action = _actions(command).get(flag)
    if action is not None and action.nargs is None:
        head = current[: len(current) - len(value)]
        settled = before if head else before[:-1]
        yield from (found if found == FILES else head + found for found in _values(flag, action, value, settled, ctx))
    elif command not in SUMMARIES or command == "help":
        yield from _starting(current, (*ALL, "help"))
    else:
        yield from _operands(command, current, before, ctx)


def _actions(command: str) -> dict[str, Any]:
    parser = command_parser(command) if command in SUMMARIES else top_parser()
    return parser._option_string_actions


def _values(flag: str, action: Any, value: str, before: Sequence[str], ctx: Context) -> Iterator[str]:
    if action.choices:
        yield from _starting(value, map(str, action.choices))
    elif flag in PROFILE_VALUES:
        yield from _starting(value, _profiles(before, ctx))
    elif action.metavar in FILE_VALUES:
        yield FILES
        if value.startswith("s3"):
            yield from _paths(value, before, ctx)


def _operands(command: str, current: str, before: Sequence[str], ctx: Context) -> Iterator[str]:
    positionals: list[Any] = command_parser(command)._get_positional_actions()
    choices = [choice for action in positionals if action.choices for choice in action.choices]
    yield from _starting(current, map(str, choices))
    if command in LOCAL or command in ONLY_FILES:
        yield FILES
    if command not in NO_PATHS and command not in ONLY_FILES:
        yield from _paths(current, before, ctx, buckets_only=command in ONLY_BUCKETS, with_local=command in LOCAL)


def _starting(start: str, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.startswith(start))


def _profiles(before: Sequence[str], ctx: Context) -> list[str]:
    """Return the names of the configuration file's profiles; the global flags of the line count from then on."""
    limit_s = _limit_s(ctx.environ)
    limits = {"connect_timeout": str(limit_s / 2), "read_timeout": str(limit_s), "retries": "1"}
    vars(ctx.args).update({**limits, **vars(top_parser().parse_known_args(list(before))[0])})
    return sorted(ctx.profile_names())


def _paths(
    text: str, before: Sequence[str], ctx: Context, *, buckets_only: bool = False, with_local: bool = False
) -> Iterator[str]:
    """Yield the buckets, prefixes and keys that begin with a text; ``s3/`` and profiles for less."""
    if "/" not in text:
        yield from _starting(text, ("s3/",))  # before the file of profiles, which may be broken
    profiles = [name for name in _profiles(before, ctx) if not (with_local and os.path.lexists(name))]
    heads = [f"{name}/" for name in filter(re.compile(NAMED).fullmatch, profiles) if name != "s3"]
    head = next(filter(text.startswith, ("s3://", "s3/", *heads)), "")
    if not head:
        yield from _starting(text, heads)
        return
    ctx.args.target_profile = head[:-1] if head in heads else ""
    rest = text[len(head) :]
    if buckets_only and "/" in rest:
        return
    if "/" not in rest:
        names = _cached("", ctx, lambda client: [bucket.name for bucket in client.list_buckets()])
        yield from _starting(text, (f"{head}{name}{'' if buckets_only else '/'}" for name in names))
        return
    path = parse_s3(f"s3/{rest}")
    names = _cached(f"{path.bucket}/{path.key}", ctx, lambda client: _keys(client, path))
    yield from (f"{head}{path.bucket}/{name}" for name in names)


def _keys(client: S3Client, path: S3Path) -> list[str]:
    from s3pool.s3.list_all import list_pages

    page = next(list_pages(client, path.bucket, prefix=path.key, delimiter="/", max_keys=MOST))
    return sorted([*page.prefixes, *(info.key for info in page.objects)])


def _cached(name: str, ctx: Context, find: Callable[[S3Client], list[str]]) -> list[str]:
    """Return the names that the pool tells, or told a moment ago; no name that would break a line."""
    config = ctx.reload_config()
    from hashlib import sha256

    base = ctx.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    what = f"{[each.url for each in config.endpoints]} {config.access_key} {name}"
    digest = sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
    path = os.path.join(base, "s3pool", "completion", digest)
    names = _read_cache(path)
    if names is None:
        from s3pool.session import open_session

        with open_session(config) as session:
            names = [each for each in find(session.client) if each.isprintable()]
        _write_cache(path, names)
    return names


def _read_cache(path: str) -> list[str] | None:
    try:
        if time.time() - os.stat(path).st_mtime > CACHED_S:
            return None
        with open(path, encoding="utf-8") as file:
            return [str(name) for name in json.load(file)]
    except (OSError, ValueError):
        return None


def _write_cache(path: str, names: list[str]) -> None:
    """Keep names for the next key; they are the user's own business, and old ones go."""
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for entry in os.scandir(directory):
            if time.time() - entry.stat().st_mtime > CACHED_S:
                os.unlink(entry)
        temporary = f"{path}.{os.getpid()}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(names, file)
        os.replace(temporary, path)
    except OSError:
        return  # a cache that cannot be written costs a request


def _local_names(start: str) -> list[str]:
    """Return the files and directories whose names begin so, without those that tcsh would split."""
    directory, base = os.path.split(start)
    try:
        with os.scandir(os.path.expanduser(directory) or ".") as entries:
            found = [(entry.name, "/" if entry.is_dir() else "") for entry in entries if entry.name.startswith(base)]
    except OSError:
        return []
    return [os.path.join(directory, name) + end for name, end in sorted(found) if " " not in name]


BASH = r"""# bash completion for s3pool
_s3pool() {
    local line found command= cur=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    if [[ $cur == -* ]]; then
        for line in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
            [ -n "$(_s3pool_flags "$line")" ] && command=$line && break
        done
        COMPREPLY=($(compgen -W "$(_s3pool_flags "$command") $_s3pool_global_flags" -- "$cur"))
        return
    fi
    case $cur in [:=]) cur= ;; esac
    compopt -o filenames 2>/dev/null
    while IFS= read -r line; do
        if [ "$line" = +files ]; then
            while IFS= read -r found; do COMPREPLY+=("$found"); done < <(compgen -f -- "$cur")
        else
            COMPREPLY+=("$line")
        fi
    done < <(s3pool completion bash -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    case ${COMPREPLY[0]} in */) compopt -o nospace 2>/dev/null ;; esac
}
@FLAGS@
complete -F _s3pool s3pool
"""

ZSH = r"""#compdef s3pool
# zsh completion for s3pool
_s3pool() {
    local line command= files=0
    local -a ends open
    if [[ $words[CURRENT] == -* && $words[CURRENT] != *=* ]]; then
        for line in "${(@)words[2,CURRENT-1]}"; do
            [ -n "$(_s3pool_flags "$line")" ] && command=$line && break
        done
        compadd -- ${=_s3pool_global_flags} $(_s3pool_flags "$command")
        return
    fi
    while IFS= read -r line; do
        case $line in
            +files) files=1 ;;
            */) open+=("$line") ;;
            *) ends+=("$line") ;;
        esac
    done < <(s3pool completion zsh -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#open )) && compadd -S '' -f -a open
    (( $#ends )) && compadd -f -a ends
    (( files )) && _files
}
@FLAGS@
if [ "$funcstack[1]" = _s3pool ]; then _s3pool "$@"; else compdef _s3pool s3pool; fi
"""

FISH = r"""# fish completion for s3pool
function __s3pool_candidates
    set -l words (commandline -opc) (commandline -ct | string unescape)
    set -l current $words[-1]
    for line in (s3pool completion fish -- $words[2..-1] 2>/dev/null)
        if test "$line" = +files
            __fish_complete_path $current
        else
            echo -- $line
        end
    end
end
complete -c s3pool -f -a '(__s3pool_candidates)'
@FLAGS@
"""

TCSH = r"""# tcsh completion for s3pool
complete s3pool 'c/--/(@FLAGS@)/' 'p/1/(@COMMANDS@)/' \
  'p@*@`s3pool completion tcsh -- "$COMMAND_LINE"`@@'
"""


def _script(shell: str) -> str:
    general = {name: action.help or "" for name, action in top_parser()._option_string_actions.items()}
    own = {
        command: {
            name: action.help or ""
            for name, action in _actions(command).items()
            if name not in general and action.help != SUPPRESSED
        }
        for command in ALL
    }
    if shell == "tcsh":
        flags = sorted({name[2:] for names in (general, *own.values()) for name in names if name.startswith("--")})
        return TCSH.replace("@FLAGS@", " ".join(flags)).replace("@COMMANDS@", " ".join(ALL))
    if shell == "fish":
        return FISH.replace("@FLAGS@", "\n".join(_fish_flags(general, own)))
    cases = "\n".join(f"        {command}) echo '{' '.join(names)}' ;;" for command, names in own.items())
    table = f"_s3pool_global_flags='{' '.join(general)}'\n_s3pool_flags() {{\n    case $1 in\n{cases}\n    esac\n}}"
    return (BASH if shell == "bash" else ZSH).replace("@FLAGS@", table)


def _fish_flags(general: Mapping[str, str], own: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for command, names in (("", general), *own.items()):
        condition = f" -n '__fish_seen_subcommand_from {command}'" if command else ""
        for name, text in names.items():
            kind = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            words = text.replace("%%", "%").replace("\\", "\\\\").replace("'", "\\'")
            yield f"complete -c s3pool{condition} {kind} -d '{words}'"


COMMANDS = {
    "print": Command(
        ("print systemd > /etc/systemd/system/s3pool-proxy.service", "print alerts > s3pool.rules.yaml"),
        _add_page,
        _print_page,
    ),
    "shards": Command(
        ("shards s3/photos --into 8 > plan", "shards s3/photos --into 8 --local photos"), _add_tree, _print_plan
    ),
    "completion": Command(
        ("completion bash > ~/.local/share/bash-completion/completions/s3pool", "completion fish | source"),
        _add_words,
        _complete,
    ),
}
