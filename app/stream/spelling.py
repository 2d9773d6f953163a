"""The texts of claims as the columns' types spell them, so that they can be compared with the values of channels."""

from typing import Final

from app.core.rights import Rules, Spell
from app.model.change import Table
from app.model.channel import Address, TableAddress
from app.model.claims import Identity
from app.model.errors import BadChannel
from app.stream.kept import Recent
from app.stream.ports import Tables

SPELLINGS: Final = 10_000


class Spellings:
    """What was asked lately is kept, that a text is no value of a type too: who is refused again and again costs the
    database nothing."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._kept = Recent[tuple[str, str], str | None](SPELLINGS)  # by type and text

    async def of(self, rules: Rules, identity: Identity, address: Address) -> Spell:
        """The spelling of what `rules` compare with this channel. Raises DatabaseAway."""
        asked = rules.to_spell(identity, address)
        found = dict[tuple[str, str], str | None]()
        if asked and isinstance(address, TableAddress):
            table = await self._tables.current(address.schema, address.table)
            for column, text in asked:
                if table is None or column not in table.columns:
                    continue
                kind = table.types[table.columns.index(column)]
                if (kind, text) not in self._kept:
                    self._kept.put((kind, text), await self._asked(table, column, text))
                found[column, text] = self._kept.get((kind, text))
        return lambda column, text: found.get((column, text))

    async def _asked(self, table: Table, column: str, text: str) -> str | None:
        try:
            return await self._tables.canonical(table, column, text)
        except BadChannel:
            return None
