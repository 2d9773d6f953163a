"""The metrics: the other reading of app.model.observations, in the Prometheus text format.

The names, labels and buckets are a contract with dashboards (docs/operations.md).

Invariants
- A label is never a value of a client, so the number of series is bounded by tables and fixed words.
- Counters that must read zero are there, as zero, from the start.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from app import __version__
from app.model import observations as observe
from app.model.errors import ResetReason
from app.model.observations import Observation

DELIVERY_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
BATCH_BUCKETS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000)
READ_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody asked for


class CountedHistogram(Collector):
    """A histogram that takes `count` equal observations at the price of one: a batch goes to an audience at once."""

    def __init__(self, name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._name, self._text, self._buckets = name, text, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float, count: int = 1) -> None:
        self._counts[bisect_left(self._buckets, value)] += count
        self._sum += value * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*(str(float(bound)) for bound in self._buckets), "+Inf"]
        pairs = [(bound, float(total)) for bound, total in zip(bounds, accumulate(self._counts), strict=True)]
        yield HistogramMetricFamily(self._name, self._text, buckets=pairs, sum_value=self._sum)


class Metrics:
    """An observer that counts, and renders what it counted."""

    def __init__(self, server_id: str) -> None:
        self._registry = CollectorRegistry()
        self._readers: dict[type[Observation], Callable[[Any], None]] = {}
        self._process(server_id)
        self._clients(server_id)
        self._access()
        self._messages()
        self._reading()
        self._flow()
        self._database()
        self._fuse()
        self._rights()

    def __call__(self, observation: Observation) -> None:
        reader = self._readers.get(type(observation))
        if reader is not None:
            reader(observation)

    @property
    def counted(self) -> frozenset[type[Observation]]:
        """The facts that some metric shows."""
        return frozenset(self._readers)

    def render(self) -> bytes:
        """All metrics, in the Prometheus text format 0.0.4, as UTF-8."""
        return generate_latest(self._registry)

    def _process(self, server_id: str) -> None:
        ProcessCollector(registry=self._registry)
        info = self._gauge("sobranie_info", "Constant 1, with the version of this server", "server_id", "version")
        info.labels(server_id, __version__).set(1)
        failures = self._counter("sobranie_internal_errors_total", "Errors that nobody foresaw; must read 0", "what")
        timeouts = self._counter("sobranie_timeouts_total", "What took too long and was given up", "what")
        for what in ("client", "feeder", "follower", "leader", "floor", "bus", "heartbeat", "door", "keys"):
            failures.labels(what)
        self._on(observe.Failed, lambda o: failures.labels(o.what).inc())
        self._on(observe.Timeout, lambda o: timeouts.labels(o.what).inc())

    def _clients(self, server_id: str) -> None:
        active = {
            transport: self._gauge(
                f"sobranie_{transport}_connections_active", f"{name} connections now", "server_id"
            ).labels(server_id)
            for transport, name in (("ws", "WebSocket"), ("sse", "Server-Sent Events"))
        }
        opened = self._counter("sobranie_connections_opened_total", "Connections accepted", "transport")
        failed = self._counter(
            "sobranie_connections_failed_total", "Connections refused, or ended by an error", "transport", "reason"
        )
        cut = self._counter("sobranie_sockets_cut_total", "Sockets without a stream that were cut", "reason")
        for reason in ("silent", "too_large", "crowded"):
            cut.labels(reason)
        limited = self._counter("sobranie_rate_limited_total", "Times that somebody wanted more than he may", "kind")
        for kind in ("message", "auth", "user", "address", "flood", "waiting"):
            limited.labels(kind)
        lagging = self._gauge("sobranie_clients_lagging", "Slow readers that are fed from history at their own pace")
        for transport in active:
            opened.labels(transport)

        def open_(fact: observe.ConnectionOpened) -> None:
            active[fact.transport].inc()
            opened.labels(fact.transport).inc()

        self._on(observe.ConnectionOpened, open_)
        self._on(observe.ConnectionClosed, lambda o: active[o.transport].dec())
        self._on(observe.ConnectionFailed, lambda o: failed.labels(o.transport, o.reason).inc())
        self._on(observe.Limited, lambda o: limited.labels(o.kind).inc())
        self._on(observe.SocketCut, lambda o: cut.labels(o.reason).inc())
        self._on(observe.Lagging, lambda o: lagging.inc(o.delta))

    def _access(self) -> None:
        auth = self._counter("sobranie_auth_total", "Tokens shown, and what came of it", "method", "result", "reason")
        fetches = self._counter("sobranie_jwks_fetches_total", "Fetches of the identity provider's keys", "result")
        age = self._gauge("sobranie_jwks_age_seconds", "Since its keys were fetched; 0 where there are none to fetch")
        for result in ("ok", "failed"):
            fetches.labels(result)

        def fetched(_: observe.JwksFetched) -> None:
            at = time.monotonic()
            fetches.labels("ok").inc()
            age.set_function(lambda: time.monotonic() - at)

        self._on(observe.Authenticated, lambda o: auth.labels(o.method, o.result, o.reason).inc())
        self._on(observe.JwksFetched, fetched)
        self._on(observe.JwksFailed, lambda o: fetches.labels("failed").inc())

    def _messages(self) -> None:
        sent = self._counter("sobranie_messages_sent_total", "Messages written to sockets", "type", "channel")
        sent_bytes = self._counter("sobranie_sent_bytes_total", "Bytes of messages written to sockets")
        received = self._counter("sobranie_messages_received_total", "Messages from clients", "type")
        refused = self._counter("sobranie_client_errors_total", "`error` messages to clients", "code")
        resets = self._counter("sobranie_resets_total", "Lost positions: `reset` messages", "reason")
        replayed = self._counter("sobranie_replayed_changes_total", "Missed changes served again", "source")
        delivery = CountedHistogram(
            "sobranie_message_delivery_duration_seconds",
            "From the first sight of the committed change by the fleet to the write to the socket",
            DELIVERY_BUCKETS,
            self._registry,
        )
        for reason in ResetReason:
            resets.labels(reason.value)

        def send(fact: observe.MessagesSent) -> None:
            sent.labels(fact.type, fact.channel).inc(fact.count)
            sent_bytes.inc(fact.bytes)

        self._on(observe.MessagesSent, send)
        self._on(observe.MessagesReceived, lambda o: received.labels(o.type).inc(o.count))
        self._on(observe.Refused, lambda o: refused.labels(o.code).inc())
        self._on(observe.Reset, lambda o: resets.labels(o.reason).inc(o.count))
        reads = self._counter("sobranie_replay_reads_total", "Pieces of history read from the event log for clients")
        self._on(observe.ReplayRead, lambda o: reads.inc())
        self._on(observe.Replayed, lambda o: replayed.labels(o.source).inc(o.changes))
        self._on(observe.Delivered, lambda o: delivery.observe(o.seconds, o.count))

    def _reading(self) -> None:
        commits = self._counter("sobranie_commits_read_total", "Transactions read from the event log")
        changes = self._counter("sobranie_changes_read_total", "Changes read from the event log")
        read_bytes = self._counter("sobranie_read_bytes_total", "Bytes of changes read from the event log")
        size = self._histogram("sobranie_batch_changes", "Changes in one read of the event log", BATCH_BUCKETS)
        seconds = self._histogram(
            "sobranie_batch_read_duration_seconds", "Time of one read of the event log", READ_BUCKETS
        )
        finds = self._counter(
            "sobranie_safety_poll_finds_total", "Commits found by the safety poll while parked; must read 0"
        )
        history = self._gauge("sobranie_history_bytes", "Batches kept in memory")

        def read(fact: observe.BatchRead) -> None:
            commits.inc(fact.commits)
            changes.inc(fact.changes)
            read_bytes.inc(fact.bytes)
            size.observe(fact.changes)
            seconds.observe(fact.seconds)

        self._on(observe.BatchRead, read)
        self._on(observe.SafetyPollFound, lambda o: finds.inc(o.commits))
        self._on(observe.HistoryBytes, lambda o: history.set(o.bytes))

    def _flow(self) -> None:
        flowing = self._gauge("sobranie_flowing", "1 while changes flow; 0 after some seconds in which they did not")
        unreadable = self._counter(
            "sobranie_unreadable_transactions_total", "Transactions of the event log that were passed over; must read 0"
        )
        self._on(observe.Flowing, lambda o: flowing.set(1))
        self._on(observe.NotFlowing, lambda o: flowing.set(0))
        self._on(observe.Unreadable, lambda o: unreadable.inc())

    def _database(self) -> None:
        up = self._gauge("sobranie_database_up", "1 while all database connections that are needed stand")
        lost = self._counter("sobranie_database_lost_total", "Times that a needed database connection ended")
        leader = self._gauge("sobranie_leader", "1 on the server that leads")
        hot = self._gauge("sobranie_gate_hot", "1 while the leader polls, 0 while it waits for NOTIFY")
        ended = self._counter("sobranie_leaders_ended_total", "Silent leaders whose session this server ended")
        incarnations = self._counter("sobranie_incarnation_changes_total", "Times that positions were re-based")
        event_log_bytes = self._gauge("sobranie_event_log_bytes", "Size of the event log in the database")
        log_age = self._gauge("sobranie_event_log_age_seconds", "Age of the oldest event in the event log")
        log_excess = self._gauge("sobranie_event_log_excess_bytes", "Event log above its limit, in bytes; should be 0")
        stuck = self._gauge("sobranie_event_log_blocked_seconds", "For how long no partition could turn; should be 0")
        turns = self._counter("sobranie_event_log_turns_total", "Partitions of the event log that were emptied")
        blocked = self._counter("sobranie_event_log_turns_blocked_total", "Turns that could not be made")
        queue = self._gauge("sobranie_notification_queue_usage_ratio", "How full PostgreSQL's NOTIFY queue is, 0 to 1")
        problems = self._counter("sobranie_watch_problems_total", "Watched tables found with broken capture", "table")
        strangers = self._gauge("sobranie_lock_strangers", "Sessions of others at locks of a server; should be 0")
        up.set(1)  # a server that can't reach the database does not start

        def resign(_: observe.Resigned) -> None:
            for known_to_the_leader in (leader, log_excess, stuck, strangers):
                known_to_the_leader.set(0)

        def lose(_: observe.DatabaseLost) -> None:
            up.set(0)
            lost.inc()

        self._on(observe.DatabaseLost, lose)
        self._on(observe.DatabaseBack, lambda o: up.set(1))
        self._on(observe.Led, lambda o: leader.set(1))
        self._on(observe.Resigned, resign)
        self._on(observe.Gate, lambda o: hot.set(o.hot))
        self._on(observe.LeaderEnded, lambda o: ended.inc())
        self._on(observe.IncarnationChanged, lambda o: incarnations.inc())
        self._on(observe.EventLogTurned, lambda o: turns.inc())
        self._on(observe.Strangers, lambda o: strangers.set(o.count))
        self._on(observe.QueueUsage, lambda o: queue.set(o.ratio))
        self._on(observe.WatchProblem, lambda o: problems.labels(f"{o.schema}.{o.table}").inc())

        def log_state(fact: observe.EventLogState) -> None:
            event_log_bytes.set(fact.bytes)
            log_age.set(fact.age_seconds)
            log_excess.set(fact.excess_bytes)
            stuck.set(fact.blocked_seconds)
            blocked.inc(fact.blocked_seconds > 0)

        self._on(observe.EventLogState, log_state)

    def _fuse(self) -> None:
        fuse = self._gauge("sobranie_fuse_open", "1 while changes are not captured; should be 0")
        opened = self._counter("sobranie_fuse_opened_total", "Times that this server saw the fuse open")

        def open_(_: observe.FuseOpened) -> None:
            fuse.set(1)
            opened.inc()

        self._on(observe.FuseOpened, open_)
        self._on(observe.FuseHealed, lambda o: fuse.set(0))

    def _rights(self) -> None:
        policies = self._gauge("sobranie_policies", "Policies by which rights are judged")
        revocations = self._gauge("sobranie_revocations", "Revocations that have not ended")
        unreadable = self._counter("sobranie_policies_unreadable_total", "Policies that could not be read; must read 0")
        refused = self._counter("sobranie_subscribe_refused_total", "Channels refused, or taken away", "reason")
        for reason in ("forbidden", "revoked", "may_subscribe", "unavailable"):
            refused.labels(reason)

        def read(fact: observe.PoliciesRead) -> None:
            policies.set(fact.policies)
            revocations.set(fact.revocations)

        self._on(observe.PoliciesRead, read)
        self._on(observe.PolicyUnreadable, lambda o: unreadable.inc())
        self._on(observe.SubscribeRefused, lambda o: refused.labels(o.reason).inc())

    def _on(self, kind: type[Observation], reader: Callable[[Any], None]) -> None:
        self._readers[kind] = reader

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)
