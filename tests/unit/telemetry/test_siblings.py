"""The metrics of several workers as one exposition."""

from prometheus_client.parser import text_string_to_metric_families

from app.model.observations import ConnectionOpened, Delivered, MessagesSent
from app.telemetry.metrics import Metrics
from app.telemetry.worker_metrics import merged


def text(server: str) -> bytes:
    metrics = Metrics(server)
    metrics(ConnectionOpened("ws"))
    metrics(MessagesSent("changes", 'odd "name" } here', 3))
    metrics(Delivered("ws", 0.002, 5))
    return metrics.render()


def test_every_series_bears_its_server_and_nothing_else_changes() -> None:
    one, two = text("one"), text("two")
    both = list(text_string_to_metric_families(merged({b"one": one, b"two": two}).decode()))
    assert len({family.name for family in both}) == len(both), "a family stands twice"
    for server, alone in (("one", one), ("two", two)):
        found = {
            (s.name, *sorted((s.labels | {"server_id": server}).items())): s.value
            for family in text_string_to_metric_families(alone.decode())
            for s in family.samples
        }
        theirs = {
            (s.name, *sorted(s.labels.items())): s.value
            for family in both
            for s in family.samples
            if s.labels["server_id"] == server and s.name != "sobranie_worker_up"
        }
        assert theirs == found


def test_a_worker_that_does_not_answer_is_left_out_and_shown() -> None:
    families = text_string_to_metric_families(merged({b"one": text("one"), b"two": None}).decode())
    samples = [sample for family in families for sample in family.samples]
    up = {s.labels["server_id"]: s.value for s in samples if s.name == "sobranie_worker_up"}
    assert up == {"one": 1, "two": 0}
    assert {s.labels["server_id"] for s in samples if s.name != "sobranie_worker_up"} == {"one"}
