"""Amounts as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.quantities import Cpu, Duration, Memory, Quantity
from tests.unit import hostile

KINDS: tuple[type[Quantity], ...] = (Memory, Cpu, Duration)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 GiB", 4 * 2**30),
        ("4GiB", 4 * 2**30),
        ("4Gi", 4 * 2**30),
        ("4G", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("4000M", 4000 * 2**20),
        ("512 MB", 512 * 10**6),
        ("1.5G", 3 * 2**29),
        ("0.5 KiB", 512),
        ("1T", 2**40),
        ("1P", 2**50),
        ("1000B", 1000),
    ],
)
def test_memory_is_read_as_slurm_means_it(text: str, expected: int) -> None:
    """K, M, G, T, P are 1024-based; KB, MB, ... are 1000-based; fractions must come to bytes."""
    assert Memory.parse(text) == Memory(expected)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (4 * 2**30, "4 GiB"),
        (4000 * 2**20, "4000 MiB"),
        (512 * 10**6, "512 MB"),
        (3 * 2**29, "1536 MiB"),
        (1, "1 B"),
        (1025, "1025 B"),
    ],
)
def test_memory_is_said_in_its_best_unit(amount: int, text: str) -> None:
    """The unit that gives the smallest whole number is used."""
    assert str(Memory(amount)) == text


def test_memory_for_slurm_is_never_less_than_asked_for() -> None:
    """Slurm takes whole MiB: rounded up."""
    assert Memory.parse("512 MB").slurm == "489M"
    assert Memory(1).slurm == "1M"
    assert Memory.parse("4 GiB").slurm == "4096M"


@pytest.mark.parametrize(
    ("value", "millicores", "text"),
    [
        ("500m", 500, "0.5"),
        ("2", 2000, "2"),
        ("1.5", 1500, "1.5"),
        (2, 2000, "2"),
        (1.5, 1500, "1.5"),
        (0.1, 100, "0.1"),
        ("2 cores", 2000, "2"),
        ("1 CPU", 1000, "1"),
        ("1m", 1, "0.001"),
        ("100", 100_000, "100"),
    ],
)
def test_cpu(value: object, millicores: int, text: str) -> None:
    """Cores as a number or a text, thousandths with ``m``; a float is what it looks like."""
    assert Cpu.parse(value).millicores == millicores
    assert str(Cpu.parse(value)) == text


def test_cpu_for_slurm_is_whole_cores() -> None:
    """Rounded up: nobody gets less than they asked for."""
    assert [Cpu.parse(value).cores for value in ("500m", 1, "1.001")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        # sbatch(1), --time: minutes, minutes:seconds, hours:minutes:seconds, days-hours, ...
        (30, 30 * 60),
        ("30", 30 * 60),
        ("30:00", 30 * 60),
        ("1:30", 90),
        ("8:00:00", 8 * 3600),
        ("08:00:00", 8 * 3600),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("1-12:00:00", 36 * 3600),
        ("0-00:00:01", 1),
        ("8h", 8 * 3600),
        ("8 hours", 8 * 3600),
        ("90m", 90 * 60),
        ("90min", 90 * 60),
        ("1d 12h", 36 * 3600),
        ("1d12h", 36 * 3600),
        ("45s", 45),
        ("1.5h", 90 * 60),
        ("2 days", 2 * 86400),
    ],
)
def test_duration(value: object, seconds: int) -> None:
    """Slurm's forms mean what Slurm says, so ``30:00`` is 30 minutes; units are clear anyway."""
    assert Duration.parse(value) == Duration(seconds)


@pytest.mark.parametrize(
    ("seconds", "text", "slurm"),
    [
        (36 * 3600, "1 d 12 h", "1-12:00:00"),
        (8 * 3600, "8 h", "08:00:00"),
        (5400, "1 h 30 min", "01:30:00"),
        (1, "1 s", "00:00:01"),
        (90061, "1 d 1 h 1 min 1 s", "1-01:01:01"),
    ],
)
def test_duration_is_said_with_units_and_for_slurm(seconds: int, text: str, slurm: str) -> None:
    """Both are exact."""
    assert str(Duration(seconds)) == text
    assert Duration(seconds).slurm == slurm


def test_minutes_are_rounded_up() -> None:
    """Slurm counts a limit in minutes."""
    assert (Duration(1).minutes, Duration(60).minutes, Duration(61).minutes) == (1, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_round_trip(kind: type[Quantity], data: st.DataObject) -> None:
    """``parse(str(x)) == x`` for every x, and so for Slurm's form of a duration."""
    amount = kind.of(data.draw(st.integers(1, kind.LARGEST)))
    assert kind.parse(str(amount)) == amount
    assert kind.parse(amount) is amount
    if isinstance(amount, Duration):
        assert Duration.parse(amount.slurm) == amount


@given(st.integers(1, Memory.LARGEST), st.integers(1, Memory.LARGEST))
def test_order_is_that_of_amounts(one: int, other: int) -> None:
    """Amounts compare as their numbers do, and equal ones hash alike."""
    assert (Memory(one) < Memory(other)) == (one < other)
    assert (hash(Memory(one)) == hash(Memory(other))) or one != other


@pytest.mark.parametrize("kind", KINDS)
@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()))
def test_anything_is_read_or_refused_in_words(kind: type[Quantity], value: object) -> None:
    """Nothing but ``ValueRefusedError`` comes out, and it says what is accepted."""
    refused = None
    try:
        amount = kind.parse(value)
    except ValueRefusedError as error:
        refused = error
    else:
        assert 0 < amount.amount <= kind.LARGEST
    if refused is not None:
        assert refused.accepted == kind.ACCEPTED
        assert len(refused.message) < 200
        assert refused.message.isascii()


@pytest.mark.parametrize("kind", KINDS)
@given(
    number=st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,2})?", fullmatch=True),
    unit=st.text("kKmMgGtTpPiIbBhdsinocreu ", max_size=5),
)
def test_the_json_schema_takes_all_that_the_parser_takes(
    kind: type[Quantity], number: str, unit: str
) -> None:
    """An editor must not underline what the hub accepts."""
    text = number + unit
    try:
        kind.parse(text)
    except ValueRefusedError:
        return
    schemas = [kind.JSON_SCHEMA, *kind.JSON_SCHEMA.get("anyOf", ())]
    patterns = [schema["pattern"] for schema in schemas if "pattern" in schema]
    assert any(re.search(pattern, text) for pattern in patterns)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", hostile.TEXTS)
def test_hostile_texts_are_refused(kind: type[Quantity], name: str) -> None:
    """No text of the hostile list is an amount, and the message repeats little of it."""
    with pytest.raises(ValueRefusedError) as caught:
        kind.parse(hostile.TEXTS[name])
    assert len(caught.value.message) < 200
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value",
    [None, True, [], {}, b"1", 1j, pytest.param(10**5000, id="huge"), float("nan"), "1" * 65],
)
def test_other_types_are_refused(kind: type[Quantity], value: object) -> None:
    """True is not one, and a number of five thousand digits costs nothing."""
    with pytest.raises(ValueRefusedError):
        kind.parse(value)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Memory, 4, "4 has no unit: add one"),
        (Memory, "4", "'4' has no unit: add one"),
        (Memory, "4 XB", "'4 XB' has the unknown unit 'XB'"),
        (Memory, "0.3 KiB", "'0.3 KiB' does not come to a whole number of bytes"),
        (Memory, "99999P", "'99999P' is too large"),
        (Memory, "1G 1M", "'1G 1M' is not understood"),
        (Cpu, "0", "'0' must be more than zero"),
        (Cpu, "0.0001", "'0.0001' does not come to a whole number of thousandths of a core"),
        (Duration, "12h 1d", "'12h 1d' must go from the largest unit to the smallest"),
        (Duration, 1.5, "1.5 has no unit: add one"),
        (Duration, "UNLIMITED", "'UNLIMITED' is not understood"),
        (Duration, "1:2:3:4", "'1:2:3:4' is not understood"),
    ],
)
def test_the_message_says_what_is_wrong(kind: type[Quantity], value: object, words: str) -> None:
    """It names the value and the reason."""
    with pytest.raises(ValueRefusedError, match="accepted: ") as caught:
        kind.parse(value)
    assert caught.value.message == words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", [0, -1, True, 1.5, "1", None, 2**80])
def test_one_made_directly_holds_the_same_bounds(kind: type[Quantity], amount: object) -> None:
    """There is no way around the check."""
    with pytest.raises(ValueRefusedError):
        kind.of(amount)  # type: ignore[arg-type]


def test_a_model_holds_them() -> None:
    """Pydantic parses them, writes them to JSON as text, and keeps the object in Python."""

    class Holder(BaseModel):
        memory: Memory
        cpu: Cpu
        walltime: Duration

    holder = Holder.model_validate({"memory": "4G", "cpu": 1.5, "walltime": 30})
    assert holder.memory == Memory(2**32)
    assert holder.model_dump()["memory"] is holder.memory
    assert holder.model_dump_json() == '{"memory":"4 GiB","cpu":"1.5","walltime":"30 min"}'
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    with pytest.raises(ValidationError):
        Holder.model_validate({"memory": 4, "cpu": 1, "walltime": 1})
