"""Commands that are rows of a table: which setting they show and change, by which verbs, on which places."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from s3pool.cli.exit_codes import combined, exit_code_for
from s3pool.errors import LocalFileError, ProtocolError, S3PoolError, UsageError, describe_os_error
from s3pool.location import S3Path
from s3pool.s3.settings import Place, S3Setting, SettingOperations, read_document

if TYPE_CHECKING:
    from s3pool.cli.context import Context

BUCKETS, OBJECTS, BOTH = "s3/BUCKET", "s3/BUCKET/KEY", "s3/BUCKET or s3/BUCKET/KEY"
FILE = "[FILE]"
NONE = "none"


class Action(NamedTuple):
    """One verb: its names (ours first, then mc's), what it does, and the words before and after the path.

    ``act`` returns a value, which ``text`` shows to people; what changes something has ``done`` instead.
    """

    names: tuple[str, ...]
    act: Callable[[Run, Place], Any]
    text: Callable[[Any], str] | None = None
    done: str = ""
    before: tuple[str, ...] = ()
    after: str = ""

    def form(self, place: str) -> str:
        """Return how it is written."""
        return " ".join(filter(None, (self.names[0], *self.before, place, self.after)))


class SettingsCommand(NamedTuple):
    """One command, which is a module as far as the parser knows; a key has the setting ``of_objects``."""

    name: str
    SUMMARY: str
    places: str
    example: str
    actions: tuple[Action, ...]
    setting: S3Setting
    of_objects: S3Setting | None = None
    flags: tuple[Callable[[argparse.ArgumentParser], object], ...] = ()

    @property
    def EXAMPLES(self) -> tuple[str, ...]:  # noqa: N802 - as modules of commands have it
        """The example of its help."""
        return (self.example,)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb, the words after it, and the flags."""
        forms = [
            f"  s3pool {self.name} {action.form('PATH' if action.after else 'PATH...')}" for action in self.actions
        ]
        parser.epilog = f"PATH is {self.places}:\n" + "\n".join(forms)
        if self.actions[0].names[0]:
            parser.add_argument("action", metavar="ACTION", help=", ".join(action.names[0] for action in self.actions))
        parser.add_argument("words", nargs="*", metavar="WORD", help="values and paths: see below")
        for add in self.flags:
            add(parser)

    def run(self, args: argparse.Namespace, ctx: Context) -> int:
        """Act on each path; a failure is printed, and the rest goes on."""
        words, name = list(args.words), getattr(args, "action", "")
        if name == "rule" and words:  # mc's `ilm rule add`
            name = words.pop(0)
        action = next((action for action in self.actions if name in action.names), None)
        if action is None:
            raise UsageError(f"{self.name} {name}: write {', '.join(each.names[0] for each in self.actions)}")
        if name and name in "|".join(action.before).split(
            "|"
        ):  # `anonymous download PATH`, where mc has a `set` before it
            words.insert(0, name)
        values, paths = words[: len(action.before)], words[len(action.before) :]
        if action.after:
            values, paths = [*values, *paths[1:]], paths[:1]
        if not paths or (action.after not in ("", FILE) and not values):
            raise UsageError(f"write s3pool {self.name} {action.form('PATH')}, where PATH is {self.places}")
        run = Run(self, action, args, ctx, values)
        return ctx.for_each([run.path(text) for text in paths], run.act)


class Run:
    """One command line at work; ``values`` are its words beside the paths."""

    def __init__(
        self, command: SettingsCommand, action: Action, args: argparse.Namespace, ctx: Context, values: list[str]
    ) -> None:
        self.command = command
        self.action = action
        self.args = args
        self.ctx = ctx
        self.values = values
        config = ctx.config
        self.client = SettingOperations(ctx.client.sender, addressing=config.addressing, region=config.region)
        self._is_recursive: bool = getattr(args, "recursive", False)

    def path(self, text: str) -> S3Path:
        """Read one path, and refuse one that has no such setting."""
        path = self.ctx.s3(text)
        name, places = self.command.name, self.command.places
        if not path.bucket:
            raise UsageError(f"{text} names no bucket; {name} takes {places}")
        if path.key and (places == BUCKETS or getattr(self.args, "default", False)):
            raise UsageError(f"{text} has a key; {name} takes {BUCKETS} here")
        if not path.key and places == OBJECTS and not self._is_recursive:
            raise UsageError(f"{text} is a bucket; {name} takes {OBJECTS}, and with -r all below it")
        if getattr(self.args, "version_id", "") and (self._is_recursive or not path.key):
            raise UsageError("--version-id is for one object")
        if getattr(self.args, "versions", False) and not self._is_recursive:
            raise UsageError("--versions goes with -r")
        return path

    def get(self, place: Place) -> Any:
        """Return the value, None where nothing is set."""
        return self.client.get(*self._meant(place))

    def put(self, place: Place, value: Any) -> None:
        """Replace the value; in a dry run nothing happens."""
        if not self.ctx.dry_run:
            bypass = getattr(self.args, "bypass_governance", False)
            self.client.put(*self._meant(place), value=value, bypass=bypass)

    def delete(self, place: Place) -> None:
        """Delete the value; in a dry run nothing happens."""
        if not self.ctx.dry_run:
            self.client.delete(*self._meant(place))

    def _meant(self, place: Place) -> tuple[S3Setting, Place]:
        """Return the setting and whose it is: what holds for a prefix is a setting of the bucket."""
        of_objects = self.command.of_objects
        return (of_objects, place) if of_objects and place.key else (self.command.setting, Place(place.bucket))

    def file(self) -> Any:
        """Return the document in the file that was named, or in standard input."""
        name = next(iter(self.values), "-")
        try:
            with self.ctx.stdin if name == "-" else open(name, "rb") as stream:
                text = stream.read()
            return read_document(self.command.setting, text)
        except OSError as exc:
            raise LocalFileError(f"cannot read {name}: {describe_os_error(exc)}") from exc
        except ProtocolError as exc:
            raise UsageError(f"{name}: {exc.message}; nothing was changed") from exc

    # -- one path, or all below it -----------------------------------------------------------

    def act(self, path: S3Path) -> int:
        """Act on a path, or on all objects below it in several threads, and tell of each."""
        if not self._is_recursive:
            place = Place(path.bucket, path.key, getattr(self.args, "version_id", ""))
            self._tell(place, self.action.act(self, place))
            return 0
        from s3pool.cli.transfers import executor_for

        self.ctx.session.start_health()
        executor = executor_for(self.ctx, inline=False)
        try:
            return combined(self._told(*result) for result in executor.flow(self._attempt, self._below(path)))
        finally:
            executor.close()

    def _below(self, path: S3Path) -> Iterator[Place]:
        from s3pool.cli.selection import iter_selected_pages, select

        versions = self.args.versions
        for page in iter_selected_pages(self.ctx.client, select(path, glob=False), versions=versions):
            for info in page.objects:
                if not info.is_delete_marker:
                    yield Place(path.bucket, info.key, info.version_id if versions else "")

    def _attempt(self, place: Place) -> tuple[Place, Any]:
        try:
            return place, self.action.act(self, place)
        except S3PoolError as exc:
            return place, exc

    def _told(self, place: Place, value: Any) -> int:
        if isinstance(value, S3PoolError):
            self.ctx.out.error(value, source=S3Path(place.bucket, place.key).text)
            return exit_code_for(value)
        self._tell(place, value)
        return 0

    def _tell(self, place: Place, value: Any) -> None:
        out, where = self.ctx.out, S3Path(place.bucket, place.key).text
        fields = {"type": self.command.name, "action": self.action.names[0], "url": where, "value": value}
        if place.version_id:
            fields["version_id"] = place.version_id
        if self.action.text is None:
            out.act(f"{self.action.done}: {out.escape(where)}", fields)
        elif self.action.text is document and value is not None:
            out.result(document(value), fields)
        else:
            text = NONE if value is None else self.action.text(value)
            out.result("\n".join(f"{out.escape(where)}: {out.escape(line)}" for line in text.split("\n")), fields)


def document(value: Any) -> str:
    """Return a document as it can be given back."""
    return json.dumps(value, indent=2, ensure_ascii=False)
