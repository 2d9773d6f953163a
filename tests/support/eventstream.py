"""The bytes of an event stream, read to the letter of the HTML standard, so that tests see what a browser sees."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    data: str
    id: str | None = None
    event: str | None = None
    retry: str | None = None


class EventParser:
    """Bytes in, events out; an event without `data` (a bare `retry:` or comment) is reported too, with empty data."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}

    def feed(self, data: bytes) -> list[Event]:
        text = self._rest + data
        # A lone CR at the end may be half of a CRLF.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        return [event for line in lines if (event := self._line(line.decode())) is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            found, self._fields = self._fields, {}
            return self._event(found) if found else None
        name, _, value = line.partition(":")
        if name:
            self._fields.setdefault(name, []).append(value.removeprefix(" "))
        return None

    @staticmethod
    def _event(fields: dict[str, list[str]]) -> Event:
        def last(name: str) -> str | None:
            return fields[name][-1] if name in fields else None

        return Event("\n".join(fields.get("data", [])), last("id"), last("event"), last("retry"))
