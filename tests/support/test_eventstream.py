"""The parser of event streams: the same events whatever the pieces in which the bytes come."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventstream import Event, EventParser

STREAM = b'retry: 1500\n\nid: p1\ndata: {"a":1}\n\n: heartbeat\n\ndata: x\r\ndata:y\r\n\r\nevent: e\rdata: z\r\r'
EVENTS = [Event("", retry="1500"), Event('{"a":1}', id="p1"), Event("x\ny"), Event("z", event="e")]


@given(st.lists(st.integers(0, len(STREAM))))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    parser, edges = EventParser(), [0, *sorted(cuts), len(STREAM)]
    found = [e for a, b in pairwise(edges) for e in parser.feed(STREAM[a:b])]
    assert found + parser.feed(b"\n") == EVENTS
