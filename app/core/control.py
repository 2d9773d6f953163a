"""What in the event log is not a change, taken out of one transaction: the one handling of the letters G, P, R and T.

G says that a generation of a table begins or ends, R that partitions changed behind the parent's back: each is a
`reset: schema` for the table. T is a change (TRUNCATE). The R events that directly follow a T of their own table say
that its partitions were emptied with it, and are part of the T. P says whose rights may have changed.
"""

from collections.abc import Iterable

from app.model.change import Change, Table
from app.model.rights import RightsChange


class Control:
    """Takes the events of one transaction in their order, all at once or piece by piece. `truncated` is the relid of
    the table that the event before emptied, `rights` joins what was said of rights."""

    def __init__(self, truncated: int | None = None) -> None:
        self.truncated = truncated
        self.rights: RightsChange | None = None

    def take_out(self, events: Iterable[Change]) -> tuple[list[Change], list[Table]]:
        """The changes among these events, and the tables whose channels need a `reset: schema`."""
        changes: list[Change] = []
        schema: dict[int, Table] = {}
        for event in events:
            relid = event.table.relid
            if event.op == "R" and self.truncated == relid:
                continue
            self.truncated = relid if event.op == "T" else None
            if event.op == "P":
                self.rights = RightsChange.joined([self.rights, RightsChange.of_event(event.new_values)])
            elif event.op in "GR":
                schema[relid] = event.table
            else:
                changes.append(event)
        return changes, list(schema.values())
