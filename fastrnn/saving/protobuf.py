"""Reading protocol buffers that may be hostile, without their schemas.

A message is read one level deep: the fields that hold messages are slices of the same bytes until they are asked
for, so that nothing is copied and no nesting is followed that the reader of a format does not know.
"""

from collections.abc import Iterator

from fastrnn.errors import ModelFormatError

MAX_FIELDS = 2_000_000
FIELD_BYTES = 200
"""What Python takes to tell where a field, of two bytes or more, lies."""

MAX_VARINT_BYTES = 10

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_varint(data: memoryview, position: int, place: str) -> tuple[int, int]:
    """Return the unsigned number that starts at `position`, and where it ends."""
    value = 0
    for i, byte in enumerate(data[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position + i + 1
    raise ModelFormatError(f"{place} is damaged: a number at byte {position} does not end")


class Message:
    """One message.

    Parameters
    ----------
    data : bytes or memoryview
    place : str
        What messages call it.
    max_bytes : int, optional
        How much memory the fields may take, in it and in each of the messages that it gives.

    Raises
    ------
    ModelFormatError
        If it is no message.
    """

    def __init__(
        self, data: bytes | memoryview, place: str, max_bytes: int = MAX_FIELDS * FIELD_BYTES
    ) -> None:
        self.place = place
        self._max_bytes = max_bytes
        most = min(MAX_FIELDS, max_bytes // FIELD_BYTES)
        self._numbers: dict[int, int] = {}
        self._parts: dict[int, list[memoryview]] = {}
        for count, (field, value) in enumerate(_fields(memoryview(data), place)):
            if count >= most:
                raise ModelFormatError(
                    f"{place} has more than {most} fields; see max_bytes of load_model"
                )
            if isinstance(value, int):
                self._numbers[field] = value
            else:
                self._parts.setdefault(field, []).append(value)

    def number(self, field: int) -> int:
        """Return a number, 0 where there is none; the last one counts."""
        value = self._numbers.get(field, 0)
        return value - (1 << 64) if value >= 1 << 63 else value

    def parts(self, field: int) -> list[memoryview]:
        """Return every occurrence of a field that holds bytes, text or messages."""
        return self._parts.get(field, [])

    def text(self, field: int) -> str:
        """Return a text, empty where there is none."""
        parts = self.parts(field)
        try:
            return str(parts[-1], "utf-8") if parts else ""
        except UnicodeDecodeError as error:
            raise ModelFormatError(f"{self.place} is damaged: {error}") from error

    def message(self, field: int) -> "Message":
        """Return a message, an empty one where there is none."""
        parts = self.parts(field)
        return Message(parts[-1] if parts else b"", self.place, self._max_bytes)

    def messages(self, field: int) -> "Iterator[Message]":
        """Yield all messages of a repeated field."""
        return (Message(part, self.place, self._max_bytes) for part in self.parts(field))


def _fields(data: memoryview, place: str) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = read_varint(data, position, place)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = read_varint(data, position, place)
            yield field, value
            continue
        if kind == _BYTES:
            size, position = read_varint(data, position, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ModelFormatError(f"{place} is damaged: byte {position} starts no field")
        if size > len(data) - position:
            raise ModelFormatError(f"{place} is damaged: the field {field} has {size} bytes")
        part = data[position : position + size]
        position += size
        yield field, part if kind == _BYTES else int.from_bytes(part, "little")
