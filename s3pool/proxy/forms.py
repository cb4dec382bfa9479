"""A browser's upload form (multipart/form-data): its fields first, then the bytes of its file.

Source: RFC 7578; RFC 2046 section 5.1; Amazon S3 API Reference, "POST Object".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from s3pool.proxy.errors import S3ErrorResponse
from s3pool.record import dataclass

FORM_TYPE = "multipart/form-data"
MAX_FIELDS_BYTES = 64 * 1024  # all fields before the file, with the heads of their parts; S3 takes 20 KB of values
MAX_DOCUMENT_BYTES = 32 * 1024  # of a policy, or of tags
DOCUMENTS = ("policy", "tagging")
MAX_PART_HEAD_BYTES = 4096
PART_BYTES = 64  # of the head of a part and its boundary, at least
MAX_REST_BYTES = 64 * 1024  # what may stand behind the file
BLOCK_BYTES = 256 * 1024
FIRST_BLOCK_BYTES = 8 * 1024  # doubled whenever it comes full
FILE = "file"
BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
DISPOSITION = re.compile(r"content-disposition:[ \t]*form-data(;.*)", re.IGNORECASE)
PARAMETER = re.compile(r';[ \t]*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
PART_TYPE = re.compile(r"content-type:[ \t]*([^\r\n]*)", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A field's name may become a header's; the others are S3's own and never do.
FIELD_NAME = re.compile(r"[0-9a-z-]+|success_action_(?:redirect|status)|x-ignore-.*")

Read = Callable[[memoryview], int]


@dataclass(frozen=True, slots=True)
class UploadForm:
    """The fields before the file; names are in lower case."""

    fields: Mapping[str, str]
    file_name: str = ""
    file_type: str = ""

    def value(self, name: str) -> str:
        """Return a field's value, or nothing."""
        return self.fields.get(name, "")

    @property
    def key(self) -> str:
        """Return the key, with the file's own name in it where that was asked for."""
        return self.value("key").replace("${filename}", re.split(r"[/\\]", self.file_name)[-1])


def boundary_of(content_type: str) -> str:
    """Return the boundary between the parts. Raises S3ErrorResponse: the type does not say."""
    match = BOUNDARY.search(content_type)
    if match is None:
        raise bad_form("the form's Content-Type names no boundary")
    return match[1] or match[2]


def bad_form(detail: str) -> S3ErrorResponse:
    """Return the answer to a body that is no form."""
    return S3ErrorResponse(
        400, "MalformedPOSTRequest", f"The body of your POST request is malformed: {detail}", closes=True
    )


class FormReader:
    """Reads a form from a source that knows only readinto."""

    def __init__(self, read: Read, boundary: str) -> None:
        self._read = read
        self._mark = b"\r\n--" + boundary.encode("latin-1", "replace")
        # The first mark stands at the very beginning, where no line ends before it.
        self._rest = bytearray(b"\r\n")
        self._block = memoryview(bytearray(FIRST_BLOCK_BYTES))
        self._is_over = False

    def read_fields(self) -> UploadForm:
        """Read everything before the file's own bytes.

        Raises S3ErrorResponse: it is no form, too large, or has no file.
        """
        fields: dict[str, str] = {}
        left = MAX_FIELDS_BYTES
        self._content(left)
        while self._begins_part():
            name, file_name, kind = self._part_head()
            if name == FILE:
                return UploadForm(fields, file_name, kind)
            value = self._content(min(left, MAX_DOCUMENT_BYTES) if name in DOCUMENTS else left)
            left -= len(value) + PART_BYTES + len(name)
            if name in fields:
                raise bad_form(f"the field {name} is there twice")
            fields[name] = _text(name, value)
        raise S3ErrorResponse(400, "InvalidArgument", "POST requires exactly one file upload per request.", closes=True)

    def readinto(self, view: memoryview) -> int:
        """Return bytes of the file; 0 at its end. Raises S3ErrorResponse: the body ends before the file does."""
        if self._is_over:
            return 0
        while True:
            end = self._rest.find(self._mark)
            # The last bytes may be the beginning of a mark.
            safe = end if end >= 0 else len(self._rest) - len(self._mark) + 1
            if safe > 0:
                count = min(safe, len(view))
                view[:count] = self._rest[:count]
                del self._rest[:count]
                return count
            if end == 0:
                self._is_over = True
                del self._rest[: len(self._mark)]
                return 0
            self._more("the file's end")

    def drop_rest(self) -> None:
        """Read and discard the parts behind the file. Raises S3ErrorResponse: it is too much to be a form's end."""
        dropped = 0
        while count := self._read(self._block):
            dropped += count
            if dropped > MAX_REST_BYTES:
                raise bad_form("too much stands behind the file")

    def _more(self, what: str) -> None:
        count = self._read(self._block)
        if not count:
            raise bad_form(f"it ends before {what}")
        self._rest += self._block[:count]
        if count == len(self._block) < BLOCK_BYTES:
            self._block = memoryview(bytearray(2 * count))

    def _until(self, mark: bytes, limit: int, what: str) -> bytes:
        seen = 0
        while (end := self._rest.find(mark, max(seen - len(mark) + 1, 0))) < 0:
            seen = len(self._rest)
            if seen > limit + len(mark):
                break
            self._more(what)
        if not 0 <= end <= limit:
            raise S3ErrorResponse(400, "MaxPostPreDataLengthExceededError", f"{what} is too far away", closes=True)
        found = bytes(self._rest[:end])
        del self._rest[: end + len(mark)]
        return found

    def _content(self, limit: int) -> bytes:
        return self._until(self._mark, max(limit, 0), "the next boundary")

    def _begins_part(self) -> bool:
        while len(self._rest) < 2:
            self._more("the boundary's line")
        if self._rest.startswith(b"--"):
            return False
        if self._until(b"\r\n", MAX_PART_HEAD_BYTES, "the boundary's line").strip(b" \t"):
            raise bad_form("something stands behind a boundary")
        return True

    def _part_head(self) -> tuple[str, str, str]:
        text = self._until(b"\r\n\r\n", MAX_PART_HEAD_BYTES, "a part's head").decode("utf-8", "surrogateescape")
        name = file_name = kind = ""
        for line in text.split("\r\n"):
            if match := DISPOSITION.fullmatch(line):
                words = {word.lower(): quoted or plain for word, quoted, plain in PARAMETER.findall(match[1])}
                name = words.get("name", "").lower()
                file_name = re.sub(r'\\(["\\])', r"\1", words.get("filename", ""))  # browsers write %22
            elif match := PART_TYPE.fullmatch(line):
                kind = match[1].strip()
        if FIELD_NAME.fullmatch(name) is None:
            raise bad_form("a part's name has other characters than letters, digits and hyphens")
        if CONTROL.search(kind + file_name) or CONTROL.search(re.sub(r"\r\n|\t", "", text)):
            raise bad_form("a part's head holds control characters")
        return name, file_name, kind


def _text(name: str, value: bytes) -> str:
    text = value.decode("utf-8", "surrogateescape")
    # Fields become header lines, where a line's end would begin another one.
    if name not in DOCUMENTS and CONTROL.search(text):
        raise bad_form(f"the field {name} holds control characters")
    return text
