"""``dataclass`` for the program's values, at a tenth of the time when modules are loaded.

The library's decorator takes 1.4 ms for each class and 15 ms for its imports, too much for commands of a tenth of a
second. This one supports classes with slots. Type checkers see the library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    from operator import attrgetter

    MISSING = object()
    FIELDS = "__record_fields__"

    class Field:
        """The settings of one field."""

        __slots__ = ("compare", "default", "default_factory", "init", "repr")

        def __init__(self, default, default_factory, *, init, repr, compare):
            self.default, self.default_factory = default, default_factory
            self.init, self.repr, self.compare = init, repr, compare

    def field(*, default=MISSING, default_factory=MISSING, init=True, repr=True, compare=True):
        """Return the settings of a field: see dataclasses.field."""
        return Field(default, default_factory, init=init, repr=repr, compare=compare)

    def dataclass(*, frozen=False, slots=False, eq=True):
        """Make a class of values: see dataclasses.dataclass. ``slots=True`` is required.

        Raises TypeError: the class needs a feature that this decorator does not have.
        """

        def decorate(cls):
            if not slots or len([base for base in cls.__bases__ if hasattr(base, FIELDS)]) > 1:
                raise TypeError(
                    f"{cls.__name__}: only classes with slots and at most one base with fields are made here"
                )
            return _make(cls, frozen=frozen, eq=eq)

        return decorate

    def replace(value, /, **changes):
        """Return a copy with some fields changed."""
        cls = value.__class__
        return cls(**{name: getattr(value, name) for name in cls.__match_args__ if name not in changes}, **changes)

    def _make(cls, *, frozen, eq):
        # inspect.get_annotations would do it, but importing inspect takes the time saved here.
        annotated = cls.__dict__.get("__annotations__", {})  # noqa: RUF063
        own = {name: _field_of(cls.__dict__.get(name, MISSING)) for name in annotated}
        fields = getattr(cls, FIELDS, {}) | own
        members = {name: value for name, value in cls.__dict__.items() if name not in own}
        for name in ("__dict__", "__weakref__"):
            members.pop(name, None)
        members |= {
            "__slots__": tuple(own),
            "__match_args__": tuple(name for name, item in fields.items() if item.init),
            FIELDS: fields,
        }
        members.setdefault("__repr__", _repr_of([name for name, item in fields.items() if item.repr]))
        if eq:
            compared = [name for name, item in fields.items() if item.compare]
            values_of = attrgetter(*compared) if compared else lambda _value: ()
            members["__eq__"] = _equality(values_of)
            members["__hash__"] = (lambda self: hash(values_of(self))) if frozen else None
        if frozen:
            members |= {"__setattr__": _refuse, "__delattr__": _refuse}

        def begin(self, /, *values, **named):
            # Generated at the first instance: it takes most of the time, and few classes are used.
            made.__init__ = _init_of(made, fields, frozen=frozen)
            made.__init__(self, *values, **named)

        members["__init__"] = begin
        made = type(cls)(cls.__name__, cls.__bases__, members)
        return made

    def _field_of(value):
        return value if isinstance(value, Field) else Field(value, MISSING, init=True, repr=True, compare=True)

    def _init_of(cls, fields, *, frozen):
        """Generate __init__ with the fields as parameters."""
        scope = {"MISSING": MISSING}
        parameters, lines = ["self"], []
        for name, item in fields.items():
            value = name
            if item.default_factory is not MISSING:
                scope[f"make_{name}"] = item.default_factory
                value = f"make_{name}() if {name} is MISSING else {name}" if item.init else f"make_{name}()"
            if item.init:
                has_default = item.default is not MISSING or item.default_factory is not MISSING
                scope[f"default_{name}"] = item.default
                parameters.append(f"{name}=default_{name}" if has_default else name)
            elif item.default_factory is MISSING:
                continue
            # The descriptors of the slots can set fields of a frozen class.
            scope[f"set_{name}"] = getattr(cls, name).__set__
            lines.append(f"set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            lines.append("self.__post_init__()")
        body = "".join(f"\n    {line}" for line in lines or ["pass"])
        exec(f"def __init__({', '.join(parameters)}):{body}", scope)
        init = scope["__init__"]
        init.__qualname__ = f"{cls.__qualname__}.__init__"
        return init

    def _repr_of(names):
        def text(self):
            return f"{self.__class__.__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in names])})"

        return text

    def _equality(values_of):
        def equal(self, other):
            if other.__class__ is not self.__class__:
                return NotImplemented
            return values_of(self) == values_of(other)

        return equal

    def _refuse(self, name, *_value):
        raise AttributeError(f"{self.__class__.__name__}.{name} cannot be changed: it is frozen")
