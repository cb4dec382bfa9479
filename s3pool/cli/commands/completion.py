"""s3pool completion: a script that teaches a shell the commands and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "print a completion script for a shell"

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand of completion."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or tcsh")
    parser.epilog = 'Try it: eval "$(s3pool completion bash)"'


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Print the script for the whole command line."""
    try:
        import shtab
    except ImportError as exc:
        raise ConfigError("completion needs the package shtab: pip install shtab") from exc
    from s3pool.cli.parser import build_parser

    script = shtab.complete(build_parser(show_globals=True), shell=args.shell)
    ctx.out.line(script.rstrip("\n"))
    return 0
