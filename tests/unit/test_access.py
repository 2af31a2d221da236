"""Who may have what: one decision for the page, the API and the gateway."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.access import Limits, Offer, Person, Selection, offered, select
from qhub_spawner.catalogue import Catalogue, load
from qhub_spawner.errors import SelectionError
from qhub_spawner.quantities import Duration, Memory
from tests.unit import hostile

HOUR = Duration(3600)

CATALOGUE = load(
    [
        {
            "slug": "general",
            "display_name": "General",
            "walltime": "1h",
            "memory": "1G",
            "slurm": {"partition": "general"},
            "options": {
                "walltime": {
                    "display_name": "How long",
                    "choices": {
                        "short": {"display_name": "Short"},
                        "day": {
                            "display_name": "Day",
                            "default": True,
                            "overrides": {"walltime": "8h"},
                        },
                        "week": {
                            "display_name": "Week",
                            "access": {"groups": ["staff"]},
                            "overrides": {"walltime": "7d", "slurm": {"qos": "secret-qos"}},
                        },
                    },
                },
                "memory": {
                    "display_name": "Memory",
                    "choices": {"little": {"display_name": "Little"}},
                    "free": {"sets": "memory", "minimum": "500M", "maximum": "4G"},
                },
                "account": {
                    "display_name": "Account",
                    "free": {"sets": "slurm.account", "pattern": ".*"},
                },
                "nodes": {
                    "display_name": "Nodes",
                    "free": {"sets": "nodes", "maximum": 4, "access": {"users": ["root-of-all"]}},
                },
            },
        },
        {
            "slug": "gpu",
            "display_name": "GPU",
            "default": True,
            "gpu": 1,
            "access": {"groups": ["ml"], "users": ["ada"]},
            "slurm": {"partition": "gpu", "qos": "gpu"},
        },
        {
            "slug": "secret",
            "display_name": "Secret",
            "access": {"groups": ["staff"]},
            "local": {},
        },
    ]
)

ADA = Person("ada")
BEN = Person("ben", frozenset({"ml"}))
CLO = Person("clo")
STAFF = Person("dan", frozenset({"staff"}))


def refusal(
    user_options: object,
    person: Person = CLO,
    limits: Limits | None = None,
    catalogue: Catalogue = CATALOGUE,
) -> SelectionError:
    """Select what is refused, and return the error."""
    with pytest.raises(SelectionError) as caught:
        select(catalogue, person, user_options, limits)
    error = caught.value
    assert error.status_code in (400, 403, 404)
    assert str(error).isprintable()
    assert len(error.message) < 400
    return error


def one(**profile: Any) -> Catalogue:
    """A catalogue of one profile."""
    base = {"slug": "a", "display_name": "A", "slurm": {}}
    return load([{**base, **profile}])


def choices(offer: Offer, option: str) -> list[str]:
    """The names of the choices of an offer."""
    return list(offer.profile.options[option].choices)


@pytest.mark.parametrize(
    ("person", "slugs"),
    [
        (ADA, ["general", "gpu"]),
        (BEN, ["general", "gpu"]),
        (CLO, ["general"]),
        (STAFF, ["general", "secret"]),
        (Person("ML"), ["general"]),
        (Person("ml"), ["general"]),
        (Person("x", frozenset({"ada"})), ["general"]),
        (Person("staff", frozenset({"STAFF", "sta"})), ["general"]),
    ],
)
def test_offered_by_user_or_group(person: Person, slugs: list[str]) -> None:
    """A listed user, or a member of a listed group; names are compared exactly."""
    assert [offer.profile.slug for offer in offered(CATALOGUE, person)] == slugs


def test_what_is_offered_can_be_had_and_nothing_else() -> None:
    """The form and the decision agree, for each person, profile and choice."""
    for person in (ADA, BEN, CLO, STAFF):
        offers = {offer.profile.slug: offer for offer in offered(CATALOGUE, person)}
        for profile in CATALOGUE.profiles:
            if profile.slug not in offers:
                assert refusal({"profile": profile.slug}, person).status_code == 403
                continue
            mine = offers[profile.slug].profile.options
            for name, option in profile.options.items():
                for choice in option.choices:
                    asked = {"profile": profile.slug, "options": {name: choice}}
                    if name in mine and choice in mine[name].choices:
                        assert select(CATALOGUE, person, asked).options[name] == choice
                    else:
                        assert refusal(asked, person).status_code == 403


@pytest.mark.parametrize(
    "nothing", [None, {}, {"profile": None}, {"options": {}}, {"options": None}]
)
def test_nothing_said_is_the_default(nothing: object) -> None:
    """The marked default where they may have it, else the first they may have."""
    assert select(CATALOGUE, ADA, nothing).slug == "gpu"
    assert select(CATALOGUE, CLO, nothing).slug == "general"


def test_what_was_worked_out_is_shared_only_by_those_it_is_the_same_for() -> None:
    """A thousand people with the same rights cost as much as one; others do not get theirs."""
    first = offered(CATALOGUE, Person("x", frozenset({"ml", "other"})))
    assert offered(CATALOGUE, Person("y", frozenset({"ml"}))) is first
    for person in (ADA, CLO, STAFF, Person("z", frozenset({"ml", "staff"}))):
        assert offered(CATALOGUE, person) is not first
    assert offered(CATALOGUE, BEN, Limits(max_walltime=HOUR)) is not first


def test_nobody_gets_what_is_not_there() -> None:
    """A person who may have nothing is told so."""
    catalogue = one(access={"groups": ["staff"]})
    error = refusal({}, catalogue=catalogue)
    assert (error.status_code, error.accepted) == (403, ())


def test_a_selection_is_finished() -> None:
    """Choices are laid over in order, no option is left, and it selects itself again."""
    asked = {"profile": "general", "options": {"memory": "2G", "account": "physics"}}
    selection = select(CATALOGUE, CLO, asked)
    assert selection.options == {"walltime": "day", "memory": "2G", "account": "physics"}
    assert selection.profile.walltime == Duration(8 * 3600)
    assert selection.profile.memory == Memory(2**31)
    assert selection.profile.slurm is not None
    assert selection.profile.slurm.account == "physics"
    assert selection.profile.slurm.partition == "general"
    assert selection.profile.options == {}
    assert (selection.backend, selection.backends) == ("slurm", ("slurm",))
    assert select(CATALOGUE, CLO, selection.user_options) == selection


def test_later_options_win() -> None:
    """Options merge in the order of the profile, whatever the order they are sent in."""
    catalogue = one(
        options={
            name: {
                "display_name": name,
                "choices": {"c": {"display_name": "C", "overrides": {"walltime": time}}},
            }
            for name, time in (("first", "1h"), ("second", "2h"))
        }
    )
    asked = {"profile": "a", "options": {"second": "c", "first": "c"}}
    assert select(catalogue, CLO, asked).profile.walltime == Duration(7200)


def test_unknown_and_forbidden_profiles() -> None:
    """400 and 403; both name what was asked for, and list only what this person may have."""
    unknown, forbidden = refusal({"profile": "nothing"}), refusal({"profile": "secret"})
    assert (unknown.status_code, forbidden.status_code) == (400, 403)
    assert (unknown.name, forbidden.name) == ("nothing", "secret")
    assert unknown.accepted == forbidden.accepted == ("general",)
    assert str(unknown) == "There is no profile 'nothing'. You may choose: general."
    assert str(forbidden) == "You may not use the profile 'secret'. You may choose: general."


def test_names_of_others_never_show() -> None:
    """No refusal tells a person of a profile, choice, account or QOS that is not theirs."""
    asked: list[object] = [
        {"profile": "nothing"},
        {"profile": "general", "options": {"walltime": "nothing"}},
        {"profile": "general", "options": {"nothing": "x"}},
        {"profile": "general", "options": {"memory": "1"}},
    ]
    for user_options in asked:
        text = str(refusal(user_options))
        assert not any(word in text for word in ("secret", "week", "nodes", "staff", "gpu")), text
    limits = Limits(qos=frozenset({"normal"}))
    text = str(refusal({"profile": "general", "options": {"walltime": "week"}}, limits=limits))
    assert "secret-qos" not in text


@pytest.mark.parametrize(
    ("option", "value", "status", "accepted"),
    [
        ("walltime", "nothing", 400, ("short", "day")),
        ("walltime", "week", 403, ("short", "day")),
        ("walltime", "1h", 400, ("short", "day")),
        ("walltime", "Day", 400, ("short", "day")),
        ("memory", "5G", 400, ("little",)),
        ("memory", "499M", 400, ("little",)),
        ("memory", "3", 400, ("little",)),
        ("account", "two words", 400, ()),
        ("nodes", "2", 403, ("walltime", "memory", "account")),
        ("nothing", "2", 400, ("walltime", "memory", "account")),
    ],
)
def test_unknown_and_forbidden_values(
    option: str, value: str, status: int, accepted: tuple[str, ...]
) -> None:
    """Each names the option and lists what may be chosen."""
    error = refusal({"profile": "general", "options": {option: value}})
    assert error.status_code == status
    assert error.accepted[: len(accepted)] == accepted
    assert repr(option) in error.message


def test_a_restricted_option_is_not_there_for_others() -> None:
    """Without any choice or free value left an option is not shown, and not applied."""
    (mine,) = (o for o in offered(CATALOGUE, CLO) if o.profile.slug == "general")
    assert list(mine.profile.options) == ["walltime", "memory", "account"]
    asked = {"profile": "general", "options": {"nodes": "3"}}
    assert select(CATALOGUE, Person("root-of-all"), asked).profile.nodes == 3


def test_a_choice_comes_before_a_free_value() -> None:
    """A text that is both is the choice, also when the choice is for others."""
    option = {
        "display_name": "O",
        "choices": {
            "2": {"display_name": "Two", "overrides": {"nodes": 20}},
            "3": {"display_name": "Three", "access": {"groups": ["staff"]}},
        },
        "free": {"sets": "nodes"},
    }
    catalogue = one(options={"o": option})
    assert select(catalogue, CLO, {"options": {"o": "2"}}).profile.nodes == 20
    assert select(catalogue, CLO, {"options": {"o": "4"}}).profile.nodes == 4
    assert refusal({"options": {"o": "3"}}, catalogue=catalogue).status_code == 403


def test_defaults_of_options() -> None:
    """The named default, the marked choice, the first allowed one; a forbidden one never."""
    plain = {"display_name": "P"}
    staff = {"display_name": "S", "access": {"groups": ["staff"]}}
    catalogue = one(
        options={
            "named": {"display_name": "N", "choices": {"a": plain, "b": plain}, "default": "b"},
            "marked": {
                "display_name": "M",
                "choices": {"a": plain, "b": {**plain, "default": True}},
            },
            "first": {"display_name": "F", "choices": {"a": staff, "b": plain}},
            "lost": {
                "display_name": "L",
                "choices": {"a": staff, "b": plain},
                "free": {"sets": "slurm.account"},
                "default": "a",
            },
            "free": {"display_name": "R", "free": {"sets": "nodes"}, "default": 3},
            "unset": {"display_name": "U", "free": {"sets": "nodes"}},
        }
    )
    assert select(catalogue, CLO, {}).options == {
        "named": "b",
        "marked": "b",
        "first": "b",
        "lost": "b",
        "free": "3",
    }


def test_no_gpu_is_none() -> None:
    """A choice of no GPU leaves none, so that nobody downstream counts to zero."""
    option = {
        "display_name": "G",
        "choices": {"none": {"display_name": "None", "overrides": {"gpu": 0}}},
    }
    assert select(one(gpu=2, options={"g": option}), CLO, {}).profile.gpu is None


@pytest.mark.parametrize("name", hostile.DATA)
def test_hostile_shapes(name: str) -> None:
    """What is no ``{"profile": text, "options": {text: text}}`` is a 400."""
    assert refusal(hostile.DATA[name]).status_code == 400


@pytest.mark.parametrize("name", hostile.wrong_types())
def test_hostile_types(name: str) -> None:
    """In each place: huge, deep, or of another type."""
    value = hostile.wrong_types()[name]
    assert refusal({"profile": value}).status_code == 400
    assert refusal({"profile": "general", "options": {"walltime": value}}).status_code == 400
    assert refusal({value if value.__hash__ else "x": "general"}).status_code == 400
    if value not in ({}, None) and name != "deep mapping":
        assert refusal({"options": value}).status_code == 400


def test_ten_megabytes_and_many_options() -> None:
    """Size is looked at before anything else."""
    big = hostile.ten_megabytes()
    for user_options in (
        {"profile": big},
        {big: "x"},
        {"options": {big: "x"}},
        {"options": {"memory": big}},
        {"options": hostile.wide()},
        big,
    ):
        assert refusal(user_options).status_code == 400


@pytest.mark.parametrize("name", hostile.TEXTS)
@pytest.mark.parametrize("where", ["profile", "name", "walltime", "memory"])
def test_hostile_texts(where: str, name: str) -> None:
    """No text of the hostile list is a profile, an option, a choice or an amount."""
    text = hostile.TEXTS[name]
    if where == "profile":
        asked: dict[str, Any] = {"profile": text}
    elif where == "name":
        asked = {"profile": "general", "options": {text: "x"}}
    else:
        asked = {"profile": "general", "options": {where: text}}
    error = refusal(asked)
    assert error.status_code == 400
    assert error.message.isascii()
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", hostile.TEXTS)
@pytest.mark.parametrize("sets", ["slurm.account", "slurm.qos", "slurm.constraint", "environment"])
def test_no_pattern_lets_a_dangerous_value_through(sets: str, name: str) -> None:
    """With the pattern ``(?s).*`` the rule of the field itself still holds."""
    option = {"display_name": "O", "free": {"sets": sets, "pattern": "(?s).*"}}
    catalogue = one(options={"o": option})
    text = hostile.TEXTS[name]
    try:
        selection = select(catalogue, CLO, {"options": {"o": text}})
    except SelectionError as error:
        assert error.status_code == 400  # noqa: PT017 - some texts are harmless
        return
    assert selection.options["o"] == text
    assert text.isascii()
    assert not text.startswith("-")
    assert not set(text) & set(" \t\r\n\0'\"`$;<>{}\\!#%?")


def test_limits_forbid_a_profile_in_words() -> None:
    """An account, a QOS or a fixed walltime that is not theirs blocks it, and says so."""
    catalogue = load(
        [
            {"slug": "account", "display_name": "1", "slurm": {"account": "research"}},
            {"slug": "qos", "display_name": "2", "slurm": {"qos": "gpu"}},
            {"slug": "long", "display_name": "3", "walltime": "8h", "slurm": {}},
            {"slug": "fine", "display_name": "4", "walltime": "30m", "slurm": {}},
            {"slug": "open", "display_name": "5", "slurm": {}},
        ]
    )
    limits = Limits(frozenset({"b", "a"}), frozenset(), HOUR)
    words = {offer.profile.slug: offer.blocked for offer in offered(catalogue, CLO, limits)}
    assert words == {
        "account": "asks for the account research; yours: a, b",
        "qos": "asks for the QOS gpu; you have no QOS",
        "long": "asks for 8 h; your limit is 1 h",
        "fine": None,
        "open": None,
    }
    error = refusal({"profile": "long"}, limits=limits, catalogue=catalogue)
    assert error.status_code == 403
    assert "it asks for 8 h; your limit is 1 h" in error.message
    assert error.accepted == ("fine", "open")
    assert select(catalogue, CLO, {}, limits).slug == "fine"
    for offer in offered(catalogue, CLO, Limits()):
        assert (offer.blocked, offer.max_walltime, offer.backends) == (None, None, ("slurm",))
        assert select(catalogue, CLO, {"profile": offer.profile.slug}, Limits())


def test_limits_filter_choices() -> None:
    """A choice that asks for too much is not offered, and refused with the words."""
    limits = Limits(max_walltime=HOUR)
    (offer,) = offered(CATALOGUE, CLO, limits)
    assert choices(offer, "walltime") == ["short"]
    assert offer.max_walltime == HOUR
    error = refusal({"options": {"walltime": "day"}}, limits=limits)
    assert error.status_code == 403
    assert "it asks for 8 h; your limit is 1 h" in error.message
    assert error.accepted == ("short",)


def test_limits_hold_for_free_values() -> None:
    """An account must be theirs; a free walltime ends at the limit, and the form knows."""
    limits = Limits(accounts=frozenset({"physics"}), max_walltime=HOUR)
    asked = {"profile": "general", "options": {"account": "chemistry"}}
    error = refusal(asked, limits=limits)
    assert error.status_code == 403
    assert "yours: physics" in error.message
    free = {"display_name": "W", "free": {"sets": "walltime", "minimum": "10m", "maximum": "8h"}}
    catalogue = one(options={"w": free})
    (offer,) = offered(catalogue, CLO, limits)
    rule = offer.profile.options["w"].free
    assert rule is not None
    assert rule.maximum == "1 h"
    assert "1 h" in str(refusal({"options": {"w": "2h"}}, limits=limits, catalogue=catalogue))
    tiny = Limits(max_walltime=Duration(60))
    (offer,) = offered(catalogue, CLO, tiny)
    assert offer.blocked == "asks for at least 10 min; your limit is 1 min (W)"


def test_a_profile_beyond_the_limits_is_saved_by_its_choices() -> None:
    """Where a choice can bring it within the limits, only such choices are offered."""
    option = {
        "display_name": "W",
        "choices": {
            "as-it-is": {"display_name": "As it is", "default": True},
            "short": {"display_name": "Short", "overrides": {"walltime": "1h"}},
            "long": {"display_name": "Long", "overrides": {"walltime": "2h"}},
        },
    }
    other = {"display_name": "O", "choices": {"x": {"display_name": "X"}}}
    catalogue = one(walltime="8h", options={"w": option, "o": other})
    limits = Limits(max_walltime=HOUR)
    (offer,) = offered(catalogue, CLO, limits)
    assert offer.blocked is None
    assert choices(offer, "w") == ["short"]
    assert choices(offer, "o") == ["x"]
    assert select(catalogue, CLO, {}, limits).profile.walltime == HOUR


def test_an_option_of_which_no_choice_fits_blocks() -> None:
    """Nobody runs without a choice that the administrator wants to be made."""
    option = {
        "display_name": "Account",
        "choices": {"r": {"display_name": "R", "overrides": {"slurm": {"account": "research"}}}},
    }
    (offer,) = offered(one(options={"a": option}), CLO, Limits(accounts=frozenset({"x"})))
    assert offer.blocked == "asks for the account research; yours: x (Account)"
    assert offer.backends == ()


def test_a_free_value_that_must_be_given() -> None:
    """Without it the profile is beyond the limits, and the refusal says so."""
    option = {"display_name": "W", "free": {"sets": "walltime"}}
    catalogue = one(walltime="8h", options={"w": option})
    limits = Limits(max_walltime=HOUR)
    error = refusal({}, limits=limits, catalogue=catalogue)
    assert error.status_code == 403
    assert "it asks for 8 h; your limit is 1 h" in error.message
    assert error.accepted == ("w",)
    assert select(catalogue, CLO, {"options": {"w": "30m"}}, limits).profile.walltime


TWO = {"slurm": {"account": "research"}, "local": {}}


def test_first_falls_back_to_the_next_backend() -> None:
    """When limits forbid Slurm, the next one written is used; limits then hold no more."""
    catalogue = one(**TWO, walltime="8h")
    assert select(catalogue, CLO, {}).backend == "slurm"
    selection = select(catalogue, CLO, {}, Limits(accounts=frozenset(), max_walltime=HOUR))
    assert (selection.backend, selection.backends) == ("local", ("local",))


def test_limits_of_slurm_are_none_for_others() -> None:
    """A profile that runs elsewhere first is not shaped by Slurm's accounting."""
    catalogue = load(
        [{"slug": "a", "display_name": "A", "local": {}, "slurm": {}, "walltime": "8h"}]
    )
    (offer,) = offered(catalogue, CLO, Limits(max_walltime=HOUR))
    assert (offer.blocked, offer.max_walltime, offer.backends) == (None, None, ("local", "slurm"))
    assert select(catalogue, CLO, {}, Limits(max_walltime=HOUR)).backend == "local"


def test_ask_makes_an_option() -> None:
    """The person chooses among the backends they may use; the first is the default."""
    catalogue = one(**TWO, policy="ask")
    (offer,) = offered(catalogue, CLO)
    assert list(offer.profile.options) == ["backend"]
    assert choices(offer, "backend") == ["slurm", "local"]
    selection = select(catalogue, CLO, {"options": {"backend": "local"}})
    assert (selection.backend, selection.options) == ("local", {"backend": "local"})
    assert select(catalogue, CLO, selection.user_options) == selection
    assert select(catalogue, CLO, {}).backend == "slurm"
    assert refusal({"options": {"backend": "kubernetes"}}, catalogue=catalogue).status_code == 400
    limits = Limits(accounts=frozenset())
    assert select(catalogue, CLO, {}, limits).backend == "local"
    assert refusal({"options": {"backend": "slurm"}}, limits=limits, catalogue=catalogue)


def test_soonest_keeps_all_backends() -> None:
    """Which is soonest is for somebody who knows; the candidates are named."""
    selection = select(one(**TWO, policy="soonest"), CLO, {})
    assert selection.backends == ("slurm", "local")
    limits = Limits(accounts=frozenset())
    assert select(one(**TWO, policy="soonest"), CLO, {}, limits).backends == ("local",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
VALUES = st.one_of(
    st.text(max_size=12),
    st.from_regex(r"[0-9]{1,3} ?[kmgt]?", fullmatch=True),
    st.sampled_from(["short", "day", "week", "little", "2G", "physics", "-x", "$(id)", "a\nb"]),
)
OPTIONS = st.dictionaries(
    st.one_of(st.sampled_from(["walltime", "memory", "account", "nodes"]), st.text(max_size=8)),
    st.one_of(VALUES, VALUES, JSON),
    max_size=4,
)
ASKED = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {},
        optional={
            "profile": st.one_of(st.sampled_from(["general", "gpu", "secret"]), JSON),
            "options": st.one_of(OPTIONS, JSON),
        },
    ),
)
PEOPLE = st.sampled_from([ADA, BEN, CLO, STAFF])
LIMITS = st.none() | st.builds(
    Limits,
    accounts=st.none() | st.frozensets(st.sampled_from(["physics", "research"])),
    qos=st.none() | st.frozensets(st.sampled_from(["gpu", "normal"])),
    max_walltime=st.none() | st.builds(Duration, st.integers(60, 100_000)),
)


@given(asked=ASKED, person=PEOPLE, limits=LIMITS)
def test_any_input_is_selected_or_refused(
    asked: object, person: Person, limits: Limits | None
) -> None:
    """Nothing but ``SelectionError`` comes out; what is selected was offered and stays selected."""
    try:
        selection = select(CATALOGUE, person, asked, limits)
    except SelectionError as error:
        mine = {profile.slug for profile in CATALOGUE.profiles if person.may(profile.access)}
        theirs = {profile.slug for profile in CATALOGUE.profiles} - mine
        assert not theirs & set(error.accepted)  # noqa: PT017 - either is right
        return
    _holds(selection, person, limits or Limits())
    assert select(CATALOGUE, person, selection.user_options, limits) == selection


def _holds(selection: Selection, person: Person, limits: Limits) -> None:
    """What is true of every selection."""
    original = CATALOGUE.get(selection.slug)
    assert original is not None
    assert person.may(original.access)
    profile = selection.profile
    assert not profile.options
    assert selection.backend in profile.backends
    if selection.backend == "slurm":
        assert profile.slurm is not None
        assert (
            limits.max_walltime is None
            or (profile.walltime or HOUR) <= limits.max_walltime
            or (profile.walltime is None)
        )
        assert limits.accounts is None or profile.slurm.account in {None, *limits.accounts}
        assert limits.qos is None or profile.slurm.qos in {None, *limits.qos}


# --- KubeSpawner's flat form

FLAT = load(
    [
        {
            "slug": "a",
            "display_name": "A",
            "kubernetes": {},
            "options": {
                "image-name": {
                    "display_name": "Image",
                    "choices": {
                        "base-1": {"display_name": "Base"},
                        "lab": {
                            "display_name": "Lab",
                            "overrides": {"kubernetes": {"image": "example.org/lab:1"}},
                        },
                        "nightly": {"display_name": "Nightly", "access": {"groups": ["dev"]}},
                    },
                    "free": {"sets": "kubernetes.image", "pattern": "example.org/.+"},
                },
                "size": {"display_name": "Size", "choices": {"1": {"display_name": "One"}}},
                "closed": {
                    "display_name": "Closed",
                    "free": {"sets": "memory", "access": {"groups": ["dev"]}},
                },
            },
        }
    ]
)


@pytest.mark.parametrize(
    ("flat", "options"),
    [
        ({"image-name": "lab"}, {"image-name": "lab"}),
        ({"image_name": "lab", "size": "1"}, {"image-name": "lab"}),
        ({"image_name": "base_1"}, {"image-name": "base-1"}),
        ({"Image Name": "Base 1"}, {"image-name": "base-1"}),
        ({"image_name--unlisted-choice": "example.org/x:1"}, {"image-name": "example.org/x:1"}),
        ({"image-name--unlisted-choice": "example.org/x:1"}, {"image-name": "example.org/x:1"}),
        ({"size": "1", "options": {"image-name": "lab"}}, {"image-name": "lab"}),
        ({}, {"image-name": "base-1"}),
    ],
)
@pytest.mark.parametrize("profile", [{"profile": "a"}, {}])
def test_options_beside_the_profile(
    flat: dict[str, Any], options: dict[str, str], profile: dict[str, str]
) -> None:
    """What KubeSpawner's scripts send selects the same, and is stored in our form."""
    selection = select(FLAT, CLO, {**profile, **flat})
    assert selection.user_options == {"profile": "a", "options": {"size": "1", **options}}
    assert select(FLAT, CLO, selection.user_options) == selection


@pytest.mark.parametrize(
    ("flat", "status", "said"),
    [
        ({"colour": "red"}, 400, "There is no field 'colour'"),
        ({"profile_options": {}}, 400, "There is no field 'profile_options'"),
        ({"image": "lab"}, 400, "There is no field 'image'"),
        ({"--unlisted-choice": "x"}, 400, "There is no field"),
        ({"image-name--unlisted-choice--unlisted-choice": "x"}, 400, "There is no field"),
        ({3: "x"}, 400, "There is no field 3"),
        ({"image-name": 3}, 400, "must be a text"),
        ({"image-name": ""}, 400, "is empty"),
        ({"image-name": None}, 400, "must be a text"),
        ({"image-name": {"a": "b"}}, 400, "must be a text"),
        ({"image-name": "a\nb"}, 400, "cannot be seen"),
        ({"image-name": "x" * 257}, 400, "longer than 256"),
        ({"image-name": "elsewhere/x:1"}, 400, "is not accepted"),
        ({"image-name--unlisted-choice": "elsewhere/x:1"}, 400, "is not accepted"),
        ({"image-name--unlisted-choice": "lab"}, 400, "is the name of a choice"),
        ({"size--unlisted-choice": "2"}, 400, "There is no choice '2'"),
        ({"size": "2"}, 400, "There is no choice '2'"),
        ({"image-name": "nightly"}, 403, "You may not choose 'nightly'"),
        ({"closed": "1 GiB"}, 403, "You may not set the option 'closed'"),
        ({"closed--unlisted-choice": "1 GiB"}, 403, "You may not set the option 'closed'"),
        ({"image-name": "lab", "image_name": "lab"}, 400, "is there twice"),
        ({"image-name": "lab", "options": {"image-name": "lab"}}, 400, "is there twice"),
        (
            {"image-name": "lab", "image-name--unlisted-choice": "example.org/x:1"},
            400,
            "is there twice",
        ),
        ({f"x{number}": "1" for number in range(100)}, 400, "more than 64"),
        ({"size": "1", "options": "x"}, 400, "'options' must be an object"),
    ],
)
def test_options_beside_the_profile_follow_the_same_rules(
    flat: dict[Any, Any], status: int, said: str
) -> None:
    """A key that is no option, an option given twice, or a value that may not be had: refused."""
    error = refusal({"profile": "a", **flat}, catalogue=FLAT)
    assert error.status_code == status
    assert said in str(error)


@pytest.mark.parametrize("name", sorted(hostile.TEXTS))
@pytest.mark.parametrize("key", ["image-name", "image_name--unlisted-choice"])
def test_hostile_texts_beside_the_profile(name: str, key: str) -> None:
    """As values and as keys, they are refused as under ``options``."""
    text = hostile.TEXTS[name]
    refusal({"profile": "a", key: text}, catalogue=FLAT)
    refusal({"profile": "a", text: "lab"}, catalogue=FLAT)


def test_an_option_of_ask_beside_the_profile() -> None:
    """The option that ``policy: ask`` adds is one like the others."""
    catalogue = load(
        [{"slug": "a", "display_name": "A", "policy": "ask", "slurm": {}, "kubernetes": {}}]
    )
    assert select(catalogue, CLO, {"backend": "kubernetes"}).backend == "kubernetes"


@pytest.mark.parametrize("name", ["a\nb", "a\0", "\x1b[0m", "a\x85b", "\ud800"])
def test_names_that_no_environment_can_hold(name: str) -> None:
    """Newline, NUL and their like in a person's name start nothing, and the refusal is one line."""
    with pytest.raises(SelectionError, match="No server can be started for a user name") as raised:
        select(one(), Person(name), {})
    assert raised.value.status_code == 400
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["名前", "a b", "\u200dx", "$(id)", "a'b", "..a"])
def test_other_names_are_names(name: str) -> None:
    """Whatever else a name holds is the backends' business."""
    assert select(one(), Person(name), {}).slug
