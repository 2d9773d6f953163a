"""The pure parts of the benchmarks: what is made of samples, and what is said of them."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import aims, report
from bench.blocks import Bars, Lines, Table, markdown, plain
from bench.stats import interval, number, ratios, spread, with_range
from bench.svg import chart
from bench.writers import BULK, TABLES

KEPT = {"untriggered": 1000.0, "floor": 800.0, "capture": 700.0, "pg_notify": 300.0}


def a_case(writers: int, rows: int = 1, **speeds: float) -> dict[str, Any]:
    """A result of bench.writers: three rounds of the same."""
    columns = {v: {"speed": [(KEPT | speeds)[v]] * 3, "cpu": [50.0] * 3, "wal": [300.0] * 3} for v in TABLES}
    return {"verb": "INSERT", "writers": writers, "rows": rows, "seconds": 1, "written": 9, "received": 9} | columns


def a_run(*cells: dict[str, Any], **failed: str) -> dict[str, Any]:
    return {"about": {"processor": "2 × a | b"}, "parts": {"writers": {"cells": list(cells)}}, "failed": failed}


def test_an_interval_of_ten_samples_leaves_one_out_at_each_end() -> None:
    # 1 - 2 * (1 + 10) / 2**10 = 0.979; one more left out would be 0.891.
    assert interval(list(range(10, 0, -1))) == (2, 9)


def test_an_interval_of_few_samples_is_their_range() -> None:
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert interval([5.0]) == (5.0, 5.0)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=40))
def test_the_median_is_within_its_interval_and_that_within_the_range(samples: list[float]) -> None:
    (low, high), (median, least, most, size) = interval(samples), spread(samples)
    assert least <= low <= median <= high <= most
    assert size == len(samples)


def test_ratios_go_pair_by_pair() -> None:
    assert ratios([1.0, 9.0], [2.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.00123, "0.00123"), (0.5, "0.500"), (9.876, "9.88"), (98.76, "98.8"), (12345, "12,345")],
)
def test_a_number_has_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_figure_bears_its_range() -> None:
    assert with_range([2.0, 1.0, 4.0]) == "2.00 (1.00–4.00)"
    assert with_range([2.0]) == "2.00"


def test_an_aim_is_reached_by_the_median_or_not() -> None:
    rows = {row[0]: row for row in aims.table(a_run(a_case(8), a_case(1, capture=900.0))["parts"]).rows}
    assert rows["throughput kept by 8 writers, single-row INSERT"][2:4] == ("0.700 (0.700–0.700)", "**no**")
    assert rows["throughput kept by 1 writer"][3] == "yes"
    assert rows["replay from the event log to one client"][2:4] == ("not measured", "–")


def test_a_bound_is_crossed_by_a_ratio_that_is_too_high_or_too_low_and_by_nothing_measured() -> None:
    bounds = [bound for bound in aims.BOUNDS if bound.part == "writers"]
    good = a_run(a_case(8), a_case(1, rows=BULK))["parts"]
    assert aims.broken(good, bounds) == []
    slow_writers = a_run(a_case(8, capture=100.0), a_case(1, rows=BULK))["parts"]
    assert [line.partition(":")[0] for line in aims.broken(slow_writers, bounds)] == [bounds[1].what]
    slow_bulk = a_run(a_case(8), a_case(1, rows=BULK, capture=100.0))["parts"]
    assert [line.partition(":")[0] for line in aims.broken(slow_bulk, bounds)] == [bounds[2].what]
    twice = a_run(a_case(8), a_case(1, rows=BULK) | {"received": 10})["parts"]
    assert [line.partition(":")[0] for line in aims.broken(twice, bounds)] == [bounds[0].what]
    assert len(aims.broken({}, aims.BOUNDS)) == len(aims.BOUNDS)


def a_part_beside(shared: float = 1.0, marked: float = 1.0) -> dict[str, Any]:
    """A result of bench.beside, as bench-quick has it: without what takes long."""
    cells = [
        {"clients": n, "seconds": [1.0] * 3, "database": [d] * 3, "server": [1.0] * 3}
        for n, d in ((1, 0.5), (20, shared / 2))
    ]
    marks = {"plain": [1.0] * 3, "marked": [marked] * 3}
    return {"clients": 0, "rows": 30_000, "rounds": 3, "next": {}, "whole": cells, "marks": marks}


def test_bulk_work_that_is_not_shared_and_marks_that_are_quadratic_cross_their_bounds() -> None:
    bounds = [bound for bound in aims.BOUNDS if bound.part == "beside"]
    assert aims.broken({"beside": a_part_beside()}, bounds) == []
    alone = aims.broken({"beside": a_part_beside(shared=20.0)}, bounds)
    assert [line.partition(":")[0] for line in alone] == [bounds[0].what]
    quadratic = aims.broken({"beside": a_part_beside(marked=9.0)}, bounds)
    assert [line.partition(":")[0] for line in quadratic] == [bounds[1].what]


def test_a_whole_run_has_rows_and_aims_for_what_others_suffer() -> None:
    cell = {"ms": [90.0], "database": [0.1], "server": [0.1]}
    whole = a_part_beside() | {"clients": 400, "next": {"other": cell, "same": cell | {"ms": [900.0]}}}
    whole |= {
        "check": {"tables": 5000, "seconds": [0.4]},
        "holders": {"clients": 24, "before": 57e6, "peak": 264e6, "after": 60e6},
    }
    run = {"about": {}, "parts": {"beside": whole}, "failed": {}}
    rows = {row[0]: row[2:4] for row in aims.table(run["parts"]).rows if row[2] != "not measured"}
    assert len(rows) == 7
    assert rows["next change of other rows of the same table"] == ("900", "**no**")
    assert rows["memory that 24 clients with 60 MB of rows leave behind"] == ("3.00", "yes")
    page = report.page(run)
    assert "| the next change of another table | 90.0 | 0.100 | 0.100 |" in page
    assert "| at the most | 264 |" in page
    assert "5,000 watched tables takes 0.400 s" in page


def test_the_page_has_the_figures_the_machine_and_what_failed() -> None:
    page = report.page(a_run(a_case(8), delay="TimeoutError: the swarm"))
    assert "| **our capture**, server running | 700 (700–700) | 0.70 (0.70–0.70) | 50.0 | 300 |" in page
    assert "- processor: 2 × a | b" in page
    assert "Not measured: TimeoutError: the swarm" in page
    assert "](benchmarks/writers.svg)" in page


def test_every_picture_on_the_page_is_written_and_is_xml() -> None:
    run = a_run(a_case(8), a_case(1, rows=BULK))
    pictures = report.pictures(run)
    assert list(pictures) == ["writers.svg"]
    for picture in pictures.values():
        ET.fromstring(picture)


def test_a_chart_escapes_its_words_and_stays_within_its_frame() -> None:
    bars = Bars("b", "a < b", {"g & h": [("x", 2.0, 1.0, 4.0), ("y", 0.0, 0.0, 0.0)]})
    lines = Lines("l", "t", "across", {"one": [(1, 0.3), (20_000, 700)], "none": [(0, 0)]})
    for block in (bars, lines):
        root = ET.fromstring(chart(block))
        width = float(root.attrib["viewBox"].split()[2])
        for element in root.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert 0 <= float(element.attrib.get(name, "0")) <= width


def test_a_table_is_even_on_a_terminal_and_whole_in_markdown() -> None:
    table = Table("T", ("a", "b"), [("**x|y**", "1")])
    assert markdown(table, "f").splitlines() == ["**T**", "", "| a | b |", "| --- | --- |", "| **x\\|y** | 1 |"]
    assert plain(table).splitlines() == ["T", "  a    b", "  x|y  1"]
