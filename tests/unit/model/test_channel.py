"""Channel names: every name and value can be written, in one spelling, and every other is refused with that one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model.channel import NAME_LIMIT, Address, RoomAddress, TableAddress, decode, encode, parse, route_columns
from app.model.errors import BadChannel

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
hard = st.text('%,=:./"\n\r\t\x7fé😀 aA0', min_size=1, max_size=8)
names = texts | hard
addresses = st.builds(
    lambda schema, table, pairs: TableAddress(schema, table, tuple(c for c, _ in pairs), tuple(v for _, v in pairs)),
    names | st.just("public"),
    names,
    st.lists(st.tuples(names, names | st.just("")), max_size=3),
)


def problem(name: str) -> BadChannel:
    with pytest.raises(BadChannel) as caught:
        parse(name)
    return caught.value


@given(addresses)
def test_every_address_has_a_name_that_is_read_back(address: Address) -> None:
    assert parse(str(address)) == address


@given(addresses, addresses)
def test_two_addresses_never_share_a_name(a: Address, b: Address) -> None:
    assert (str(a) == str(b)) == (a == b)


@given(names)
def test_encoding_is_undone_and_leaves_no_control_character(text: str) -> None:
    assert decode(encode(text)) == text
    assert not set(encode(text)) & set(',=:./"\n\r\t\x7f')


@given(st.text(max_size=40))
def test_whatever_comes_is_an_address_in_its_one_spelling_or_a_clear_error(name: str) -> None:
    try:
        found = str(parse(name))
    except BadChannel as error:
        found = name if error.message else ""
    assert found == name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("posts:title=a%2cb", "posts:title=a%2Cb"),
        ("posts:id=%31", "posts:id=1"),
        ("%70osts", "posts"),
        ("public.posts", "posts"),
        ("posts:at=12:30", "posts:at=12%3A30"),
        ("posts:a=b=c", "posts:a=b%3Dc"),
        ('posts:a="', "posts:a=%22"),
        ("posts:a=\n", "posts:a=%0A"),
        ("posts:a=%C3%A9", "posts:a=é"),
    ],
)
def test_another_spelling_is_refused_with_the_canonical_one(name: str, canonical: str) -> None:
    error = problem(name)
    assert error.channel == canonical
    assert repr(canonical) in error.message
    assert str(parse(canonical)) == canonical


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "a.b.c", ".posts", "posts.", "posts:", "posts:id", "posts:=1", "posts:id=1,", "posts:,id=1", ":id=1",
        "a/b", "a=b", "posts%", "posts%2", "posts%zz", "posts:id=%ff", "posts:id=%00", "%00",
        "posts:id=\ud800", "posts:id=" + "x" * NAME_LIMIT,
    ],
)  # fmt: skip
def test_what_is_no_channel_name_is_refused_and_named(name: str) -> None:
    error = problem(name)
    assert len(error.message) < 2 * NAME_LIMIT + 200
    assert error.channel is not None


def test_a_room_is_an_address_of_its_own() -> None:
    assert parse("room/lobby") == RoomAddress("lobby")
    assert str(RoomAddress("lobby")) == "room/lobby"


def test_a_declared_route_is_read_with_its_hard_column_names() -> None:
    assert route_columns("tenant_id,a%2Cb") == ("tenant_id", "a,b")
