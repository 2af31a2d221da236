"""Ranges, reserved numbers, and names for people and groups."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.errors import ConfigurationError, IdentityError, NumberTakenError
from qhub_auth.numbers.numbering import (
    LARGEST,
    PRIVILEGED_GROUPS,
    Interval,
    Ranges,
    checked,
    first_free,
    gaps,
    intervals,
    name_key,
    plain_text,
    unix_name,
)
from qhub_auth.paths import joined

numbers = st.integers(min_value=1000, max_value=1200)
pairs = st.tuples(numbers, numbers).map(sorted)
spans = pairs.map(lambda pair: Interval(*pair))
# Names of groups as people write them, and as somebody would who means harm.
names = st.text(
    st.characters(codec="utf-8") | st.sampled_from("./-_ ~:\n\0é"), min_size=1, max_size=40
)


@given(spans, st.lists(spans, max_size=5), st.sets(numbers), st.none() | numbers)
def test_what_is_free_is_free(span, reserved, taken, after):
    """The number found is in the range, above `after`, neither reserved nor taken, and the first such."""
    try:
        ranges = Ranges(people=span, reserved=tuple(reserved))
    except ConfigurationError:
        assert all(any(n in each for each in reserved) for n in range(span.first, span.last + 1))
        return
    found = first_free(span, ranges, taken.__contains__, after)
    start = span.first if after is None else max(span.first, after + 1)
    fine = [
        number
        for number in range(start, span.last + 1)
        if number not in taken and not any(number in each for each in reserved)
    ]
    assert found == next(iter(fine), None)
    assert all(ranges.is_reserved(each) == (each not in fine) for each in fine)


@given(spans, st.sets(numbers))
def test_gaps_and_used_make_the_whole(span, used):
    """The gaps between used numbers and those numbers together are the range, each number once."""
    inside = sorted(number for number in used if number in span)
    free = [n for gap in gaps(span, inside) for n in range(gap.first, gap.last + 1)]
    assert sorted([*free, *inside]) == list(range(span.first, span.last + 1))


@pytest.mark.parametrize("number", [0, 999, 65534, 65535, 2**32 - 1, 2**31, -5])
def test_reserved_numbers_are_refused_in_words(number):
    """The error says whose number, which, and what would be accepted or which setting reserves it."""
    with pytest.raises(
        NumberTakenError, match=rf"the uid of 'alice' is {number}[;,] .*(1 to|reserved)"
    ):
        checked(number, Ranges(), "the uid of 'alice'")


@pytest.mark.parametrize("number", [1000, 20000, LARGEST])
def test_usual_numbers_are_fine(number):
    """Whatever a file system keeps and nobody reserved is accepted."""
    assert checked(number, Ranges(), "it") == number


def test_always_reserved():
    """Root's and nobody's numbers stay reserved when the setting is empty."""
    ranges = Ranges(reserved=())
    assert [n for n in (0, 1, 999, 65533, 65534, 65535, 65536, 2**32 - 1) if ranges.is_reserved(n)] == [
        0, 65534, 65535, 2**32 - 1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "a", "5-", "-5", "9-5", "1-2-3", "1.5", "٣-٤", "0x10", "5\n-6a"]
)
def test_a_range_that_is_none(text):
    """What is not a number or two is an error that names the setting and an example."""
    with pytest.raises(ConfigurationError, match=r"c\.X\.reserved: .*'20000-49999'"):
        intervals([text], "c.X.reserved")


def test_ranges_are_read():
    """Numbers and ranges may be written with blanks, as text or as numbers."""
    assert intervals([5, "7", " 10 - 20 "], "x") == (
        Interval(5, 5),
        Interval(7, 7),
        Interval(10, 20),
    )
    assert [str(each) for each in intervals(["5", "10-20"], "x")] == ["5", "10-20"]


def test_a_range_with_nothing_left():
    """A range that is reserved as a whole, or beyond what file systems keep, is an error at once."""
    with pytest.raises(ConfigurationError, match="500-600 for people is reserved"):
        Ranges(people=Interval(500, 600))
    with pytest.raises(ConfigurationError, match="for groups goes beyond"):
        Ranges(groups=Interval(2**31 - 5, 2**31 + 5))


@given(st.lists(st.lists(names, min_size=1, max_size=3), min_size=1, max_size=8, unique_by=tuple))
def test_names_of_groups(trees):
    """Whatever groups are called, each gets a name of its own that group(5) can hold, and none that has rights by itself."""
    given_names: set[str] = set()
    for at, parts in enumerate(trees):
        name = unix_name(joined(parts), 50000 + at, given_names.__contains__)
        assert re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name)
        assert name not in given_names
        assert name not in PRIVILEGED_GROUPS
        given_names.add(name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/physics/team-a", "physics-team-a"),
        ("/Physik/Müller Gruppe", "physik-muller-gruppe"),
        ("/2026-course", "g-2026-course"),
        ("/物理", "group-50000"),
        ("/sudo", "sudo-50000"),
        ("/docker", "docker-50000"),
        ("/" + "x" * 40, "x" * 26 + "-50000"),
        ("/a~/b", "a-b"),
        ("/a.b/..", "a-b"),
        ("/_x", "_x"),
    ],
)
def test_name_of_a_group(path, name):
    """A group's name comes from its path; its number is in it when that would not do."""
    assert unix_name(path, 50000, lambda _name: False) == name


def test_a_name_that_is_taken_twice():
    """Even a name with the number may be taken, and another one is found."""
    taken = {"physics", "physics-50000", "physics-50000-1"}
    assert unix_name("/physics", 50000, taken.__contains__) == "physics-50000-2"


@given(st.text(max_size=30))
def test_name_keys_are_stable(name):
    """A key is the key of itself, so that it may be compared however often it was made."""
    assert name_key(name_key(name)) == name_key(name)


@pytest.mark.parametrize(
    ("one", "other"), [("Alice", "alice"), ("ﬁ", "fi"), ("ＢＯＢ", "bob"), ("STRASSE", "straße")]
)
def test_names_that_are_one(one, other):
    """Upper and lower case and look-alike forms have one key."""
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize("text", ["", "a\n", "\0", "a\u202e", "\ud800", "x" * 256, "\u200b"])
def test_texts_that_do_not_show(text):
    """Texts with characters that nobody sees are refused, and said safely."""
    with pytest.raises(IdentityError) as refused:
        plain_text(text, "the name")
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()
