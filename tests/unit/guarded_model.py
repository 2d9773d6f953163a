"""The model of the event log with policies, which are read as of what is committed, and with events P."""

from collections.abc import Callable
from random import Random

from app.core.rights import Policy
from app.model.change import Change, Table
from app.model.rights import Revocation
from app.stream.ports import PolicyRead
from tests.unit.log_model import BEGAN, World, Writer

POLICIES = Table(0, 5, "realtime", "policies", (), (), (), (), "", 3, ended=True)


class Guarded(World):
    """With policies as of what is committed. `lost` has, for a user and a table, how many transactions had been
    committed before the one that took the right."""

    def __init__(self, random: Random, *, held: int) -> None:
        super().__init__(random, held=held)
        self.policies_now: dict[tuple[str, str], Policy] = {}
        self.revocations: list[Revocation] = []
        self.order: list[int] = []
        self.lost: dict[tuple[str, str], int] = {}
        self.taking: dict[int, Callable[[], object]] = {}

    async def policies(self) -> PolicyRead:
        await self._reach()
        read = PolicyRead(self.raw(), list(self.policies_now.values()), list(self.revocations), False)
        await self._reach()
        return read

    async def may_subscribe(self, channel: str, claims: str) -> bool | None:
        raise AssertionError("nobody asks")

    async def close(self) -> None:
        """Nothing is open."""

    def take(self, writer: Writer, values: tuple[str | None, ...] | None, now: Callable[[], object]) -> None:
        """An event P in this transaction; `now` is what its commit does to the rules."""
        number = next(self._number)
        writer.events.append(
            Change(number, 0, writer.xid, POLICIES, "P", 0, None, BEGAN + number, values, None, None, None)
        )
        self.taking[writer.xid] = now

    def commit(self, writer: Writer) -> None:
        super().commit(writer)
        if writer.xid in self.taking:
            self.taking.pop(writer.xid)()
        self.order.append(writer.xid)
