"""One fresh database of the test cluster, with the few calls that tests make on it."""

from dataclasses import dataclass
from typing import Any

import psycopg

from harness.cluster import Cluster


@dataclass(frozen=True)
class Database:
    cluster: Cluster
    name: str
    user: str = "postgres"

    @property
    def url(self) -> str:
        return self.cluster.url(self.name, user=self.user)

    async def connect(self, *, autocommit: bool = True) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        return await psycopg.AsyncConnection.connect(self.url, autocommit=autocommit)

    async def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Runs one statement (or, without parameters, several) in its own connection; returns the last rows."""
        async with await self.connect() as connection:
            return await rows_of(connection, sql, *parameters)

    async def value(self, sql: str, *parameters: object) -> Any:
        return (await self.execute(sql, *parameters))[0][0]


async def rows_of(
    connection: psycopg.AsyncConnection[tuple[Any, ...]], sql: str, *parameters: object
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(sql.encode(), parameters or None)
    while cursor.nextset():
        pass
    return await cursor.fetchall() if cursor.description else []
