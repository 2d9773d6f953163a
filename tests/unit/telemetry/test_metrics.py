"""The metrics that dashboards rely on: names, labels, buckets, and zeros that are there from the start."""

from app.model import observations as observe
from app.model.observations import Observation
from app.telemetry.logs import LEVELS
from app.telemetry.metrics import Metrics

# What only the log tells: it has no number.
# EventLogState has the numbers of the last two, as long as it lasts.
ONLY_LOGGED = {
    observe.Served, observe.Stopped, observe.Noted, observe.WorkerStarted, observe.WorkerEnded,
    observe.WorkerHeard, observe.WorkerHung, observe.WorkerNotStarted, observe.EventLogTurnBlocked,
    observe.EventLogTurnFree, observe.FanOut, observe.PageRefused, observe.Full,  # counted as ConnectionFailed
    observe.Crowded,  # counted as Limited
    observe.ConnectFailed, observe.StrangerAtLock,  # counted as Strangers
    observe.TableRedefined, observe.TableOffAir,  # their clients are counted as Reset
}  # fmt: skip


def samples(*facts: Observation) -> dict[str, float]:
    metrics = Metrics("s-1")
    for fact in facts:
        metrics(fact)
    pairs = (line.rsplit(" ", 1) for line in metrics.render().decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_fact_is_counted_or_is_one_of_the_few_that_have_no_number() -> None:
    assert Metrics("s-1").counted == observe.FACTS - ONLY_LOGGED


def test_every_fact_that_is_not_logged_is_counted() -> None:
    assert {kind for kind, level in LEVELS.items() if level is None} <= Metrics("s-1").counted


def test_everything_that_a_dashboard_needs_is_there_before_anything_happened() -> None:
    found = samples()
    for name, value in {
        'sobranie_ws_connections_active{server_id="s-1"}': 0,
        'sobranie_sse_connections_active{server_id="s-1"}': 0,
        "sobranie_message_delivery_duration_seconds_count": 0,
        "sobranie_safety_poll_finds_total": 0,
        "sobranie_leader": 0,
        "sobranie_gate_hot": 0,
        "sobranie_commits_read_total": 0,
        "sobranie_changes_read_total": 0,
        "sobranie_batch_changes_count": 0,
        "sobranie_history_bytes": 0,
        "sobranie_event_log_bytes": 0,
        "sobranie_event_log_age_seconds": 0,
        "sobranie_notification_queue_usage_ratio": 0,
        "sobranie_clients_lagging": 0,
        "sobranie_database_up": 1,
        'sobranie_resets_total{reason="expired"}': 0,
        "sobranie_policies": 0,
        "sobranie_revocations": 0,
        'sobranie_subscribe_refused_total{reason="forbidden"}': 0,
        'sobranie_resets_total{reason="lost"}': 0,
    }.items():
        assert found[name] == value, name
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_there_is_no_series_that_nobody_asked_for() -> None:
    assert not [name for name in samples() if "_created" in name]


def test_delivery_is_counted_per_message_in_the_buckets_of_the_contract() -> None:
    found = samples(observe.Delivered("ws", 0.001, 3), observe.Delivered("sse", 0.02, 2), observe.Delivered("ws", 31.0))
    name = "sobranie_message_delivery_duration_seconds"
    buckets = {key: value for key, value in found.items() if key.startswith(f"{name}_bucket")}
    bounds = ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "5.0", "30.0", "+Inf"]
    counts = [3, 3, 3, 5, 5, 5, 5, 5, 5, 6]
    assert buckets == {f'{name}_bucket{{le="{b}"}}': c for b, c in zip(bounds, counts, strict=True)}
    assert found[f"{name}_count"] == 6
    assert abs(found[f"{name}_sum"] - 31.043) < 1e-9


def test_messages_are_counted_by_type_and_table() -> None:
    found = samples(
        observe.MessagesSent("changes", "posts", 5, 100),
        observe.MessagesSent("changes", "posts", 2, 50),
        observe.MessagesSent("changes", "sales.orders"),
        observe.MessagesSent("position", ""),
    )
    assert found['sobranie_messages_sent_total{channel="posts",type="changes"}'] == 7
    assert found['sobranie_messages_sent_total{channel="sales.orders",type="changes"}'] == 1
    assert found['sobranie_messages_sent_total{channel="",type="position"}'] == 1
    assert found["sobranie_sent_bytes_total"] == 150


def test_connections_are_active_until_they_are_closed() -> None:
    opened = observe.ConnectionOpened("ws")
    found = samples(opened, opened, observe.ConnectionClosed("ws", 1.0, 1000), observe.ConnectionOpened("sse"))
    assert found['sobranie_ws_connections_active{server_id="s-1"}'] == 1
    assert found['sobranie_sse_connections_active{server_id="s-1"}'] == 1
    assert found['sobranie_connections_opened_total{transport="ws"}'] == 2


def test_what_went_wrong_is_counted_by_its_reason() -> None:
    found = samples(
        observe.ConnectionFailed("sse", "bad_channel"),
        observe.Reset("overrun", 3, 2),
        observe.Timeout("subscribe"),
        observe.Failed("hub", RuntimeError("x")),
        observe.Refused("too_large"),
        observe.WatchProblem("sales", "orders", "trigger missing", "SELECT realtime.watch('sales.orders')"),
    )
    assert found['sobranie_connections_failed_total{reason="bad_channel",transport="sse"}'] == 1
    assert found['sobranie_resets_total{reason="overrun"}'] == 2
    assert found['sobranie_timeouts_total{what="subscribe"}'] == 1
    assert found['sobranie_internal_errors_total{what="hub"}'] == 1
    assert found['sobranie_client_errors_total{code="too_large"}'] == 1
    assert found['sobranie_watch_problems_total{table="sales.orders"}'] == 1


def test_reading_and_the_database_are_shown_as_they_are_now() -> None:
    found = samples(
        observe.BatchRead(2, 30, 4096, 0.002),
        observe.BatchRead(1, 1, 100, 0.001),
        observe.Led(),
        observe.Gate(hot=True),
        observe.Gate(hot=False),
        observe.DatabaseLost("gone"),
        observe.EventLogState(1 << 20, 12.5, 1 << 10, 5.5),
        observe.EventLogState(1 << 20, 12.5, 1 << 10, 6.5),
        observe.QueueUsage(0.25),
        observe.Lagging(+1),
        observe.Lagging(+1),
        observe.Lagging(-1),
        observe.SafetyPollFound(1),
    )
    assert found["sobranie_commits_read_total"] == 3
    assert found["sobranie_changes_read_total"] == 31
    assert found['sobranie_batch_changes_bucket{le="10.0"}'] == 1
    assert (found["sobranie_leader"], found["sobranie_gate_hot"], found["sobranie_database_up"]) == (1, 0, 0)
    assert (found["sobranie_event_log_bytes"], found["sobranie_event_log_age_seconds"]) == (1 << 20, 12.5)
    assert (found["sobranie_event_log_excess_bytes"], found["sobranie_event_log_blocked_seconds"]) == (1 << 10, 6.5)
    assert found["sobranie_event_log_turns_blocked_total"] == 2
    assert found["sobranie_notification_queue_usage_ratio"] == 0.25
    assert found["sobranie_clients_lagging"] == 1
    assert found["sobranie_safety_poll_finds_total"] == 1
    assert samples(observe.DatabaseLost("gone"), observe.DatabaseBack(1.0))["sobranie_database_up"] == 1
    resigned = samples(observe.Led(), observe.EventLogState(1, 1, 1, 1), observe.Resigned("asked"))
    assert [resigned[f"sobranie_{n}"] for n in ("leader", "event_log_excess_bytes", "event_log_blocked_seconds")] == [
        0,
        0,
        0,
    ]


def test_who_wanted_too_much_is_counted_by_the_kind_of_it_alone() -> None:
    counted = samples(observe.Limited("user"), observe.Limited("flood"), observe.Limited("flood"))
    found = {name: value for name, value in counted.items() if name.startswith("sobranie_rate_limited_total")}
    kinds = {"message": 0, "auth": 0, "user": 1, "address": 0, "flood": 2, "waiting": 0}
    assert found == {f'sobranie_rate_limited_total{{kind="{kind}"}}': count for kind, count in kinds.items()}
