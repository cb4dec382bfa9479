"""How an option is declared, once, with all its names: that gives flag, variable, key and help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, overload

from s3pool.errors import ConfigError, UsageError

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound="Options")
Row = tuple[str, str, str]

DEFAULT_ORIGIN = "default"
HIDDEN = "********"
UNIT_SUFFIX = "_s"  # of attributes that hold seconds; the option's name goes without it


class Setting(NamedTuple):
    """A raw value and its origin, as messages and ``s3pool config`` name it."""

    value: object
    origin: str


class Option(Generic[T]):
    """One option, declared as an attribute of an ``Options`` class.

    On the class the attribute is the option itself, on an instance its value in effect. An option with a ``metavar``,
    ``choices`` or a ``switch`` (the value that its flag means) has a flag; one that is ``moved`` had a flag of its
    name. ``zero`` is the word for 0, and ``default_note`` stands for the default in help and manual.
    """

    name = attribute = ""

    def __init__(
        self,
        parse: Callable[[object], T],
        default: T,
        help: str,
        *,
        key: str = "",
        env: tuple[str, ...] = (),
        flag: str = "",
        metavar: str = "",
        choices: tuple[str, ...] = (),
        switch: bool | None = None,
        repeatable: bool = False,
        secret: bool = False,
        zero: str = "0",
        default_note: str = "",
        moved: bool = False,
        group: str = "",
    ) -> None:
        self.parse, self.default, self.help = parse, default, help
        self.key, self.env, self.flag, self.metavar = key, env, flag, metavar
        self.choices, self.switch, self.repeatable = choices, switch, repeatable
        self.secret, self.zero, self.default_note = secret, zero, default_note
        self.moved, self.group = moved, group

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute
        self.name = attribute.removesuffix(UNIT_SUFFIX)
        self.key = self.key or self.name
        if not self.flag and (self.metavar or self.choices or self.switch is not None):
            self.flag = f"--{self.name.replace('_', '-')}"

    # The values are attributes of the instance, so an option is only found on the class.
    @overload
    def __get__(self, instance: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, instance: Options, owner: type) -> T: ...
    def __get__(self, instance: Options | None, owner: type) -> Option[T] | T:
        return self

    @property
    def dest(self) -> str:
        """Return the name of the flag's value among argparse's."""
        return self.flag.removeprefix("--").replace("-", "_")

    def read(self, setting: Setting) -> T:
        """Parse the value of a setting. Raises ConfigError: the value cannot be read; the message names its origin."""
        try:
            return self.parse(setting.value)
        except (ValueError, TypeError, ConfigError, UsageError) as exc:
            raise ConfigError(f"{setting.origin}: {exc}") from exc

    def text(self, value: object) -> str:
        """Return a value as ``s3pool config`` shows it; secrets are hidden."""
        if self.secret and value:
            return HIDDEN
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            between = ":" if any(isinstance(item, int) for item in value) else ","  # rates up and down
            return between.join(str(getattr(item, "spec", item)) for item in value)
        return f"{value:g}" if isinstance(value, float) else self.zero if value == 0 else str(value)

    @property
    def default_text(self) -> str:
        """Return the default for the help and the manual; empty when there is none."""
        if self.default_note or self.switch is not None:
            return self.default_note
        return "" if self.default in (None, "", ()) else self.text(self.default)

    @property
    def flag_help(self) -> str:
        """Return the help of the flag, with the first variable and the default behind it."""
        more = "; ".join(text for text in ("".join(self.env[:1]), self.default_text) if text)
        return f"{self.help} ({more})" if more else self.help


class Options:
    """A table of options, and one value for each; frozen. What is not given has the default."""

    OPTIONS: ClassVar[tuple[Option[Any], ...]] = ()
    PLAIN_FIELDS: ClassVar[Mapping[str, object]] = {}  # values that are no options, and their defaults

    def __init_subclass__(cls) -> None:
        cls.OPTIONS = tuple(option for option in vars(cls).values() if isinstance(option, Option))

    def __init__(self, **values: object) -> None:
        known = {**{option.attribute: option.default for option in self.OPTIONS}, **self.PLAIN_FIELDS}
        if strange := values.keys() - known:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(strange))}")
        self.__dict__.update(known, **values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = [f"{option.attribute}={option.text(getattr(self, option.attribute))}" for option in self.OPTIONS]
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self: OptionsT, **changes: object) -> OptionsT:
        """Return a copy with some values changed."""
        return type(self)(**{**vars(self), **changes})


class SourceOption(NamedTuple):
    """A flag that chooses where options are read from, and its variable."""

    flag: str
    env: str
    metavar: str
    help: str

    @property
    def name(self) -> str:
        """Return the name on every surface."""
        return self.flag.removeprefix("--").replace("-", "_")
