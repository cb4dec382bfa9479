"""Keys that broke other clients: every one is legal, distinct, and means only itself."""

from __future__ import annotations

HOSTILE_KEYS = (
    "../x",
    "p/../../x",
    ".",
    "..",
    "a//b",
    "a/b",
    "a/./b",
    "a/../b",
    "/abs",
    "//two",
    "x",
    "x/y",
    "dir/",
    "new\nline",
    "tab\there",
    "carriage\rreturn",
    "control\x01",
    "cafe\u0301",
    "caf\u00e9",
    "Case",
    "case",
    " leading and trailing ",
    "plus+and space",
    "percent%2Fslash",
    "%41",
    "semi;colon=equals&and?question#hash",
    "quotes\"'`",
    "<angle>&amp;",
    "back\\slash",
    "star*[a]{1..2}?",
    "\U0001f600 emoji",
    "\ufffd replacement",
    "-dash",
    "~tilde",
    "comma,colon:at@dollar$",
    "e\u0308/\u4e2d\u6587",
)

# One key for each character up to U+00FF, and one with all of them.
EVERY_CHARACTER_KEYS = tuple(f"c/{number:02x}-{chr(number)}-" for number in range(1, 256))
ALL_CHARACTERS_KEY = "all/" + "".join(chr(number) for number in range(1, 256))

# Characters that together need every byte that UTF-8 ever uses first.
LEADING_BYTES_KEY = "lead/" + "".join(
    bytes([first, *rest]).decode()
    for first, rest in (
        *((byte, (0x80,)) for byte in range(0xC2, 0xE0)),
        (0xE0, (0xA0, 0x80)),
        *((byte, (0x80, 0x81)) for byte in range(0xE1, 0xF0)),
        (0xF0, (0x9F, 0x98, 0x80)),
        *((byte, (0x80, 0x80, 0x81)) for byte in range(0xF1, 0xF5)),
    )
)
