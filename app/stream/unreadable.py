"""What could not be understood of the event log is told, by whoever reads it."""

from collections.abc import Iterable

from app.model.change import Transaction
from app.model.observations import Observer, Unreadable


def tell_unreadable(transactions: Iterable[Transaction], observe: Observer) -> None:
    for transaction in transactions:
        if transaction.unreadable:
            tables = ", ".join(sorted({table.channel for table in transaction.schema}))
            observe(Unreadable(transaction.xid, tables, transaction.unreadable))
