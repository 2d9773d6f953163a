"""procrastinate, a queue of tasks: its schema, then jobs of every kind and workers that fetch, retry and remove them.

Its tables have triggers of its own that write to each other. A program of the applications' environment.
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from procrastinate import App, PsycopgConnector, RetryStrategy, exceptions

JOBS = 60


async def add(a: int, b: int) -> int:
    return a + b


async def fail(a: int) -> None:
    raise ValueError(f"meant: {a}")


async def migrate(queue: App) -> None:
    await queue.schema_manager.apply_schema_async()


async def operate(queue: App) -> None:
    adding = queue.task(add, name="add")
    failing = queue.task(fail, name="fail", retry=RetryStrategy(max_attempts=3, wait=0))
    await defer(adding, failing)
    await asyncio.gather(*(work(queue, keep) for keep in ("never", "successful")))
    await later(queue, adding)
    await asyncio.gather(*(work(queue, keep) for keep in ("always", "successful")))
    await queue.configure_task("builtin:procrastinate.builtin_tasks.remove_old_jobs", queue="old").defer_async(
        max_hours=0
    )
    await work(queue, "never")
    await queue.job_manager.delete_old_jobs(nb_hours=0, include_failed=True)


async def defer(adding: Any, failing: Any) -> None:
    """One by one, many at once, with locks, with priorities, and some that fail."""
    for i in range(JOBS):
        await adding.configure(priority=i % 3, queue=f"queue {i % 2}").defer_async(a=i, b=1)
    await adding.batch_defer_async(*({"a": i, "b": 2} for i in range(JOBS)))
    for i in range(10):
        await adding.configure(lock="one after another").defer_async(a=i, b=3)
        await failing.defer_async(a=i)
        with suppress(exceptions.AlreadyEnqueued):
            await adding.configure(queueing_lock="only one").defer_async(a=i, b=4)


async def later(queue: App, adding: Any) -> None:
    """Jobs of the future: cancelled, removed, or brought forward."""
    jobs = [await adding.configure(schedule_in={"hours": 1}).defer_async(a=i, b=5) for i in range(12)]
    for job in jobs[:4]:
        await queue.job_manager.cancel_job_by_id_async(job)
    for job in jobs[4:8]:
        await queue.job_manager.cancel_job_by_id_async(job, delete_job=True)


async def work(queue: App, delete_jobs: str) -> None:
    """A worker that ends when nothing is left to do."""
    await queue.run_worker_async(wait=False, concurrency=4, delete_jobs=delete_jobs, install_signal_handlers=False)


async def main(step: str, url: str) -> None:
    queue = App(connector=PsycopgConnector(conninfo=url))
    async with queue.open_async():
        await {"migrate": migrate, "operate": operate}[step](queue)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
