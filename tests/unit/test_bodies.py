"""Bodies arrive as the types they left as, or are refused where they are sent."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import sys
import uuid
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import Ext, encode

from theatre_gevent import MessageNotSerializable, Ref, RegistrationError, message
from theatre_gevent.logic.bodies import MAX_BODY, body_size, copy_body, dump_body, load_body, pack_body
from theatre_gevent.logic.body_types import MAX_DEPTH, OBJECT, BadBody
from theatre_gevent.message_types import BY_CLASS, BY_NAME


@message
@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@message("bodies.frozen")
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    items: Any
    cache: list[int] = dataclasses.field(default_factory=list, compare=False)


@message("bodies.struct")
class Price(msgspec.Struct, frozen=True, kw_only=True):
    cents: Any
    currency: Any = "EUR"


@message("bodies.empty")
class Empty(msgspec.Struct, frozen=True):
    pass


@message("bodies.colour")
class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


@message("bodies.level")
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@message("bodies.word")
class Word(str, enum.Enum):
    RED = "r"
    GREEN = "bodies.word"


@message("bodies.octets")
class Octets(bytes, enum.Enum):
    EMPTY = b""
    SOME = b"some"


@message("bodies.place")
class Place(tuple, enum.Enum):  # type: ignore[type-arg]
    HOME = (0, 0)
    AWAY = (1, "x")


@message("bodies.named")
class Named(enum.Enum):
    ONE = 1

    @property
    def name(self) -> str:
        """Said otherwise than it is written."""
        return "the first"


@message("bodies.rights")
class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@message("bodies.pair")
class Pair(NamedTuple):
    left: Any
    right: Any


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or (one != one and other != other))
    if isinstance(one, Pair | tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    if isinstance(one, set | frozenset):
        return one == other and sorted(map(repr, map(type, one))) == sorted(map(repr, map(type, other)))
    if isinstance(one, Point | Frozen | Price):
        names = BY_CLASS[type(one)].fields
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, datetime | time):
        return one == other and one.fold == other.fold and repr(one.tzinfo) == repr(other.tzinfo)
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == other.as_tuple())
    return bool(one == other)


zones = st.one_of(
    st.none(),
    st.just(timezone.utc),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5)),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]).map(ZoneInfo),
)
text = st.text(max_size=8)
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 200), 1 << 200),
    st.sampled_from([-(1 << 63), (1 << 64) - 1, 1 << 64, -(1 << 63) - 1, 255, 256, -128, -129]),
    st.floats(allow_nan=False),
    text,
    st.binary(max_size=8),
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.builds(Ref, st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5)),
    st.sampled_from([*Colour, *Level, *Word, *Octets, *Place, *Named]),
    st.sampled_from([*Rights, Rights.READ | Rights.WRITE, Empty(), msgspec.UNSET]),
)
leaves = st.one_of(
    hashable_leaves,
    st.floats(),
    st.decimals(),
    st.binary(max_size=8).map(bytearray),
    st.builds(
        lambda when, zone, fold: when.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.sampled_from([0, 1])
    ),
    st.builds(
        lambda when, zone, fold: when.replace(tzinfo=zone, fold=fold),
        st.times(),
        zones,
        st.sampled_from([0, 1]),
    ),
)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Price, cents=inner),
    ),
    max_leaves=4,
)
bodies = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=3),
        st.sets(hashables, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Frozen, inner),
        st.builds(Price, cents=inner, currency=inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=12,
)


@given(bodies)
def test_every_body_arrives_as_it_left(body: Any) -> None:
    arrived = copy_body(body)
    assert same(body, arrived), (body, arrived)


@given(bodies)
def test_what_is_packed_for_a_frame_is_the_same_body(body: Any) -> None:
    packed = pack_body(body)
    data = encode(packed)
    assert same(body, load_body(data))
    assert abs(body_size(packed) - len(data)) <= 16 or isinstance(body, str)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_body_or_a_bad_body(data: bytes) -> None:
    try:
        load_body(data)
    except BadBody as error:
        text = str(error)
    else:
        return
    assert text


@given(bodies, st.data())
def test_damaged_bodies_are_a_body_or_a_bad_body(body: Any, data: st.DataObject) -> None:
    damaged: list[int] = list(dump_body(body))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_body(bytes(damaged))
    except BadBody:
        pass


@pytest.mark.parametrize(
    "body",
    [{1 << 70: 1}, {"a": {1 << 70: [1 << 64]}}, [1 << 64], [[{"n": -(1 << 63) - 1}]], [[[]] * 60, [{}] * 60], [0] * 99],
)
def test_long_integers_and_many_containers_take_the_slow_way_and_arrive(body: Any) -> None:
    assert same(body, load_body(encode(pack_body(body))))


def test_a_packed_body_no_longer_follows_its_original() -> None:
    inner = [1]
    body: dict[str, Any] = {"a": inner, "b": bytearray(b"x")}
    packed = pack_body(body)
    inner.append(2)
    body["c"] = 3
    assert load_body(encode(packed)) == {"a": [1], "b": bytearray(b"x")}


class Text(str):
    __slots__ = ()


class Plain(enum.IntEnum):
    ONE = 1


class Loose(NamedTuple):
    a: int


@dataclasses.dataclass
class Unregistered:
    a: int


class SubPoint(Point):
    pass


class OwnZone(tzinfo):
    dst = tzname = tzinfo.utcoffset  # type: ignore[assignment]

    def utcoffset(self, _when: datetime | None) -> timedelta:
        return timedelta(0)


@pytest.mark.parametrize(
    ("body", "path", "why"),
    [
        (object(), "body: ", "object cannot travel; allowed are None, bool"),
        ({"items": [0, 1, 2, Point(1, Price(cents=1j))]}, "body['items'][3].y.cents: ", "complex cannot travel"),
        ((1, {2: {"a": [lambda: 0]}}), "body[1][2]['a'][0]: ", "function cannot travel"),
        (
            {"a": {Text("x")}},
            "an item of body['a']: ",
            "subclass of str and would arrive as something else; send str(...)",
        ),
        ({Text("x"): 1}, "the key <Text> of body: ", "subclass of str"),
        ({(1, 2j): 1}, "the key <tuple> of body[1]: ", "complex"),
        ([Plain.ONE], "body[0]: ", "Plain is a subclass of int and would arrive as something else; register it"),
        (Loose(1), "body: ", "subclass of tuple and would arrive as something else; register it with @"),
        (
            collections.OrderedDict(a=1),
            "body: ",
            "subclass of dict and would arrive as something else; send dict(...) of",
        ),
        (collections.defaultdict(int), "body: ", "defaultdict is a subclass of dict"),
        ([[SubPoint(1)]], "body[0][0]: ", "SubPoint cannot travel"),
        (Unregistered(1), "body: ", "Unregistered cannot travel"),
        (Unregistered, "body: ", "a class (Unregistered) cannot travel"),
        (["ok", "\ud800"], "body[1]: ", "not valid Unicode"),
        ("\ud800", "body: ", "not valid Unicode"),
        (datetime(2020, 1, 1, tzinfo=OwnZone()), "body: ", "time zone of type OwnZone cannot travel"),
        ([memoryview(b"x")], "body[0]: ", "memoryview cannot travel"),
        (msgspec.Raw(b"\x01"), "body: ", "Raw cannot travel"),
        ({"e": Ext(1, b"")}, "body['e']: ", "Ext cannot travel"),
        (ValueError("x"), "body: ", "ValueError cannot travel"),
    ],
)
def test_what_cannot_travel_is_refused_by_type_and_path(body: Any, path: str, why: str) -> None:
    for verb in (pack_body, dump_body):
        with pytest.raises(MessageNotSerializable) as caught:
            verb(body)
        assert path.rstrip(": ") in str(caught.value)
        assert why in str(caught.value)


def test_a_body_that_contains_itself_is_refused() -> None:
    knot: list[Any] = [1]
    knot.append({"again": knot})
    with pytest.raises(MessageNotSerializable, match=r"^body\[1\]\['again'\]: it contains itself$"):
        pack_body(knot)
    point = Point(1)
    point.y = (point,)
    with pytest.raises(MessageNotSerializable, match=r"^body\.y\[0\]: it contains itself$"):
        pack_body(point)


@pytest.mark.parametrize("wrap", [lambda body: [body], lambda body: (body,), lambda body: {"a": body}, Point])
def test_depth_is_bounded_and_the_deepest_allowed_body_arrives(wrap: Any) -> None:
    body: Any = 1
    for _ in range(MAX_DEPTH):
        body = wrap(body)
    assert copy_body(body) == body
    with pytest.raises(MessageNotSerializable, match="nested more than 100 levels deep"):
        pack_body(wrap(body))
    for _ in range(5000):
        body = wrap(body)
    with pytest.raises(MessageNotSerializable, match="nested more than 100 levels deep"):
        pack_body(body)


def test_hostile_depth_is_a_bad_body() -> None:
    nested = b"\x01"
    for _ in range(60):
        nested = encode([Ext(1, encode([msgspec.Raw(nested)]))])
    assert load_body(nested)
    with pytest.raises(BadBody):
        load_body(b"\x91" * (sys.getrecursionlimit() * 50) + b"\x01")


@pytest.mark.parametrize(
    "body", ["x" * (MAX_BODY + 1), b"x" * (MAX_BODY + 1), ["x" * (MAX_BODY + 1)], ("x" * MAX_BODY,)]
)
def test_too_large_bodies_are_refused_with_their_size(body: Any) -> None:
    with pytest.raises(MessageNotSerializable, match=rf"has 16\d+ bytes when encoded; at most {MAX_BODY} fit"):
        pack_body(body)


def test_a_class_that_is_not_registered_here_is_a_bad_body() -> None:
    data = encode([Ext(OBJECT, encode(["elsewhere.Thing", {"a": 1}]))])
    with pytest.raises(BadBody, match=r"message class 'elsewhere\.Thing' is not registered on this host \(@message\)"):
        load_body(data)


def test_fields_may_be_added_in_a_rolling_upgrade() -> None:
    name = BY_CLASS[Point].name
    assert name == f"{__name__}.Point"
    assert load_body(encode(Ext(OBJECT, encode([name, {"x": 1, "later": 2}])))) == Point(1, 0)
    assert load_body(encode(Ext(OBJECT, encode(["bodies.struct", {"cents": 1, "later": 2}])))) == Price(cents=1)
    frozen = load_body(encode(Ext(OBJECT, encode(["bodies.frozen", {"items": 1}]))))
    assert frozen.cache == []
    assert frozen.cache is not load_body(encode(Ext(OBJECT, encode(["bodies.frozen", {"items": 1}])))).cache
    for missing in (name, "bodies.struct", "bodies.frozen", "bodies.pair"):
        with pytest.raises(BadBody, match=f"{missing!r} cannot be made from what arrived"):
            load_body(encode(Ext(OBJECT, encode([missing, {}]))))


def test_objects_are_made_without_running_their_constructors_twice() -> None:
    @message("bodies.counting")
    @dataclasses.dataclass
    class Counting:
        n: int

        def __post_init__(self) -> None:
            self.n += 1

    @message("bodies.counting-struct")
    class CountingStruct(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            self.n += 1

    assert Counting(1).n == CountingStruct(1).n == 2
    assert copy_body([Counting(1), CountingStruct(1)]) == [Counting(1), CountingStruct(1)]


def test_what_a_class_checks_is_checked_on_arrival_for_structs_alone() -> None:
    limit = 5

    def check(number: int) -> None:
        if number > limit:
            raise ValueError(f"at most {limit}")

    @message("bodies.checking")
    @dataclasses.dataclass
    class Checking:
        n: int

        def __post_init__(self) -> None:
            check(self.n)

    @message("bodies.checking-struct")
    class CheckingStruct(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            check(self.n)

    sent = dump_body(Checking(5)), dump_body(CheckingStruct(5))
    assert [load_body(data) for data in sent] == [Checking(5), CheckingStruct(5)]
    limit = 4
    assert load_body(sent[0]).n == 5
    with pytest.raises(BadBody, match=r"'bodies\.checking-struct' cannot be made .* ValueError: at most 4"):
        load_body(sent[1])


@pytest.mark.parametrize("kind", [Colour, Level, Word, Octets, Place, Named], ids=lambda kind: kind.__name__)
def test_members_of_any_enumeration_arrive_as_they_are(kind: type[enum.Enum]) -> None:
    for member in kind:
        body = [member, {member: (member,)}, {member}, Point(member), Price(cents=member)]
        for arrived in (copy_body(body), load_body(encode(pack_body(body)))):
            assert arrived == body
            assert arrived[0] is arrived[2].pop() is arrived[3].x is arrived[4].cents is member


@pytest.mark.skipif(not hasattr(enum, "StrEnum"), reason="Python 3.10 has none")
def test_members_of_a_str_enum_arrive_as_they_are() -> None:
    made: Any = enum.StrEnum("Made", ["ONE", "TWO"])  # type: ignore[attr-defined]
    message("bodies.str-enum")(made)
    assert [copy_body(member) is member for member in made] == [True, True]


def test_a_member_that_is_not_known_here_is_a_bad_body() -> None:
    for name in ("bodies.word", "bodies.octets", "bodies.colour"):
        with pytest.raises(BadBody, match=f"{name!r} cannot be made from what arrived: KeyError: 'BLUE'"):
            load_body(encode(Ext(OBJECT, encode([name, "BLUE"]))))


def test_a_field_that_was_never_set_is_refused() -> None:
    with pytest.raises(MessageNotSerializable, match="a field of Point is not set"):
        pack_body(object.__new__(Point))


def test_registration_refuses_what_it_cannot_keep() -> None:
    with pytest.raises(RegistrationError, match="already taken by"):
        message("bodies.struct")(dataclasses.make_dataclass("Other", ["a"]))
    with pytest.raises(RegistrationError, match=r"already registered as 'bodies\.struct', not also as 'another'"):
        message("another")(Price)
    assert message("bodies.struct")(Price) is Price
    with pytest.raises(RegistrationError, match="must not be empty"):
        message("")
    for bad in (int, object, Text, collections.OrderedDict):
        with pytest.raises(RegistrationError, match="allowed are dataclasses"):
            message(bad)
    with pytest.raises(RegistrationError, match="goes above a class"):
        message(lambda: 0)  # type: ignore[call-overload]
    with pytest.raises(RegistrationError, match="more than its fields"):
        message(dataclasses.dataclass(type("Listed", (list,), {})))
    assert "another" not in BY_NAME
    assert all(BY_CLASS[plan.cls] is plan for plan in BY_NAME.values())


def test_the_bytes_of_version_1_stay_as_they_are() -> None:
    body = {"a": (1, None), 2: [uuid.UUID(int=5)], "d": date(2024, 2, 29), "p": Price(cents=Decimal("1.0"))}
    data = bytes.fromhex(
        "84a161c703019201c00291d80a00000000000000000000000000000005a164c70507ce000b4681a170c7290d92ad626f6469"
        "65732e73747275637482a563656e7473c7030b312e30a863757272656e6379a3455552"
    )
    assert dump_body(body) == data
    assert load_body(data) == body
