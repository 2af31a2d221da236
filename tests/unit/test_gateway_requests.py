"""What a person asks for a cluster, and what they get: bounds, defaults, hostile values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dask_gateway.options import Options as ClientOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qhub_gateway.deciding import FIELDS, build, startable
from qhub_gateway.errors import RequestRefusedError
from qhub_gateway.options import ProfileOptions
from qhub_gateway.requests import ClusterRequest, Here, Owner, Site
from qhub_spawner.catalogue import load
from qhub_spawner.limits import Limits
from qhub_spawner.quantities import Duration
from tests.examples import examples
from tests.unit.hostile import TEXTS, wrong_types

CATALOGUE = load(
    [
        {
            "slug": "general",
            "display_name": "General",
            "default": True,
            "cpu": 4,
            "memory": "8 GiB",
            "walltime": "8h",
            "environment": {"prefix": "/opt/base", "variables": {"OMP_NUM_THREADS": 1}},
            "slurm": {"partition": "general"},
            "options": {
                "environment": {
                    "display_name": "Software",
                    "choices": {
                        "base": {"display_name": "Base", "default": True},
                        "physics": {
                            "display_name": "Physics",
                            "overrides": {"environment": "/opt/physics"},
                        },
                        "secret": {
                            "display_name": "Secret",
                            "access": {"groups": ["spies"]},
                            "overrides": {"environment": "/opt/secret"},
                        },
                    },
                },
                "size": {
                    "display_name": "Size",
                    "choices": {
                        "normal": {"display_name": "Normal", "default": True},
                        "big": {
                            "display_name": "Big",
                            "overrides": {"cpu": 16, "memory": "64 GiB"},
                        },
                    },
                },
            },
        },
        {
            "slug": "gpu",
            "display_name": "GPU",
            "access": {"groups": ["physics"]},
            "cpu": 8,
            "gpu": {"count": 2, "type": "a100"},
            "kubernetes": {"image": "example.org/dask:1"},
        },
        {"slug": "both", "display_name": "Both", "local": {}, "slurm": {}, "policy": "ask"},
        {"slug": "hidden", "display_name": "Not for clusters", "local": {}},
    ]
)
SITE = Site.model_validate({"profiles": {"hidden": {"offered": False}}})
ALICE = Owner(name="alice", groups=("physics",))
BOB = Owner(name="bob")


def got(owner: Owner = ALICE, *, here: Here | None = None, limits: Any = None, **asked: Any):
    return build(CATALOGUE, owner, asked, site=SITE, here=here, limits=limits)


def refusal(owner: Owner = ALICE, **asked: Any) -> str:
    with pytest.raises(RequestRefusedError) as caught:
        got(owner, **asked)
    return str(caught.value)


def test_nothing_said_is_the_profile_itself() -> None:
    """Without a word the default profile gives the size of a worker, and the site the scheduler."""
    request = got()
    assert (request.slug, request.backend, request.environment) == ("general", "slurm", "base")
    assert (str(request.worker.cpu), str(request.worker.memory)) == ("4", "8 GiB")
    assert (request.worker_threads, str(request.walltime)) == (4, "8 h")
    assert (str(request.scheduler.cpu), str(request.scheduler.memory)) == ("1", "2 GiB")
    assert request.variables == {"OMP_NUM_THREADS": "1"}
    assert str(request.idle_timeout) == "1 h"


def test_smaller_workers() -> None:
    """Within the profile a person chooses the size of workers; a bare number of memory is GiB."""
    request = got(worker_cores=2, worker_memory=1.5, walltime="90 min", worker_threads=8)
    profile = request.profile
    assert (str(profile.cpu), str(profile.memory), str(profile.walltime)) == (
        "2",
        "1536 MiB",
        "1 h 30 min",
    )
    assert request.worker_threads == 8


def test_gpus() -> None:
    """GPUs are the profile's unless fewer are asked for, and none means none."""
    assert got(profile="gpu").profile.gpu.count == 2  # type: ignore[union-attr]
    one = got(profile="gpu", worker_gpus=1)
    assert (one.profile.gpu.count, one.profile.gpu.type) == (1, "a100")  # type: ignore[union-attr]
    assert got(profile="gpu", worker_gpus=0).profile.gpu is None
    assert "at most 2" in refusal(profile="gpu", worker_gpus=3)
    assert "at most 0" in refusal(worker_gpus=1)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"worker_cores": 5}, "worker_cores: 5 is more than you may have: at most 4."),
        ({"worker_memory": "9 GiB"}, "worker_memory: 9 GiB is more than you may have"),
        ({"worker_memory": "1 MiB"}, "too little to start in: at least 128 MiB"),
        ({"walltime": "9h"}, "walltime: 9 h is more than you may have: at most 8 h."),
        ({"worker_cores": -1}, "worker_cores: "),
        ({"worker_cores": float("nan")}, "worker_cores: "),
        ({"worker_cores": float("inf")}, "worker_cores: "),
        ({"worker_cores": True}, "worker_cores: True is not an amount"),
        ({"worker_memory": float("inf")}, "worker_memory: "),
        ({"worker_memory": [1]}, "worker_memory: "),
        ({"worker_gpus": 1.5}, "is not a whole number"),
        ({"worker_gpus": 10**30}, "is more than you may have"),
        ({"worker_threads": 10**6}, "at most 1024"),
        ({"idle_timeout": 30}, "has no unit"),
        ({"idle_timeout": "30"}, "has no unit"),
        ({"scheduler_cores": 2}, "at most 1"),
        ({"scheduler_memory": "4 GiB"}, "at most 2 GiB"),
        (
            {"profile": "nobody"},
            "There is no profile 'nobody' for clusters. You may ask for: general, gpu, both.",
        ),
        ({"profile": "hidden"}, "You may not have a cluster of the profile 'hidden'"),
        ({"profile": ["general"]}, "is not a text"),
        (
            {"environment": "secret"},
            "no environment 'secret' for you. You may ask for: base, physics",
        ),
        ({"environment": "physics", "options": {"environment": "base"}}, "there twice"),
        ({"profile": "gpu", "environment": "physics"}, "has one environment"),
        ({"options": "size=big"}, "is not an object"),
        ({"options": {"size": 1}}, "must be a text"),
        ({"options": {"colour": "red"}}, "has no option 'colour'"),
        ({"worker_cmd": "rm"}, "There is no option 'worker_cmd'. You may ask for: profile"),
        ({"variables": {"DASK_GATEWAY_API_TOKEN": "x"}}, "set by the system itself"),
        ({"variables": {"JUPYTERHUB_API_TOKEN": "x"}}, "not the name of a variable to set"),
        ({"variables": {"A\nB": "x"}}, "not the name of a variable"),
        ({"variables": {"A": "x\ny"}}, "not a text on one line"),
        ({"variables": {f"A{n}": "x" for n in range(65)}}, "more than 64"),
        ({"variables": {f"A{n}": "x" * 4000 for n in range(9)}}, "longer than 32 KiB"),
        ({"variables": ["A"]}, "is not an object"),
    ],
)
def test_refusals(asked: dict[str, Any], words: str) -> None:
    """What cannot be had is refused in words that name it, and say what can be had."""
    assert words in refusal(**asked)


def test_access_is_that_of_servers() -> None:
    """A profile, and a choice, that a person may not have for a server they cannot have here."""
    assert "You may not have a cluster of the profile 'gpu'" in refusal(BOB, profile="gpu")
    spy = Owner(name="eve", groups=("spies",))
    assert got(spy, environment="secret").profile.environment.prefix == "/opt/secret"
    assert "You may not choose" in refusal(BOB, options={"environment": "secret"})


def test_limits_of_accounting() -> None:
    """What Slurm records for a person bounds the walltime as it does for servers."""
    limits = Limits(max_walltime=Duration(3600))
    with pytest.raises(RequestRefusedError, match="1 h"):
        got(profile="both", options={"backend": "slurm"}, limits=limits, walltime="2h")
    assert str(got(profile="both", limits=limits, walltime="30 min").walltime) == "30 min"


def test_from_a_server() -> None:
    """Asked from a server, its profile and its choices are the default; what is said is stronger."""
    here = Here("general", {"size": "big", "environment": "physics"})
    request = got(here=here)
    assert str(request.worker.cpu) == "16"
    assert request.environment == "physics"
    assert got(here=here, options={"size": "normal"}).environment == "physics"
    assert got(here=here, environment="base").environment == "base"
    assert got(here=here, profile="gpu").options == {}
    ask = got(here=Here("both", {"backend": "slurm"}))
    assert ask.backend == "slurm"


def test_from_a_server_that_could_not_be_had_any_more() -> None:
    """Choices of the server that its person may not have now are left out, not refused."""
    request = got(here=Here("general", {"environment": "secret"}))
    assert request.environment == "base"
    assert got(BOB, here=Here("gpu")).slug == "general"


def test_slurm_has_whole_cores() -> None:
    """On Slurm half a core is one, which is what limits count too."""
    assert str(got(worker_cores=0.5).worker.cpu) == "1"
    assert str(got(profile="gpu", worker_cores=0.5).worker.cpu) == "0.5"


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "profile": st.sampled_from(["general", "gpu", "both"]),
            "environment": st.sampled_from(["default", "base", "physics"]),
            "options": st.sampled_from([{}, {"size": "big"}, {"backend": "local"}]),
            "worker_cores": st.one_of(st.integers(0, 16), st.floats(0, 16)),
            "worker_memory": st.one_of(st.sampled_from(["", "2 GiB"]), st.floats(0, 64)),
            "worker_gpus": st.integers(-1, 3),
            "worker_threads": st.integers(0, 8),
            "walltime": st.sampled_from(["", "1h", "30:00", 30]),
            "idle_timeout": st.sampled_from(["", "never", "5 min"]),
            "variables": st.sampled_from([{}, {"A": "1"}]),
        },
    )
)
def test_what_was_given_can_be_asked_for(asked: dict[str, Any]) -> None:
    """What a person is shown gets the same cluster again; so does what the database keeps."""
    try:
        request = got(**asked)
    except RequestRefusedError:
        return
    again = got(here=Here("general", {"size": "big"}), **request.asked())
    assert again == request
    kept = json.loads(json.dumps(request.to_json()))
    assert ClusterRequest.from_json(kept) == request
    assert json.loads(json.dumps(ClusterRequest.from_json(kept).to_json())) == kept


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*TEXTS.values()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*FIELDS, "extra"]), ANYTHING, max_size=4))
def test_hostile_values(asked: dict[str, Any]) -> None:
    """Whatever is sent gives a cluster or a refusal on one line of plain characters."""
    options = ProfileOptions(CATALOGUE, ALICE, site=SITE)
    try:
        parsed = options.parse_options(asked)
    except RequestRefusedError as error:
        text = str(error)
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 3000
    else:
        json.dumps(parsed, allow_nan=False)
        options.get_configuration(parsed, None)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("field", ["profile", "environment", "worker_memory", "walltime"])
def test_hostile_texts(field: str, text: str) -> None:
    """No hostile text is a value of any field; what is empty says nothing."""
    if text:
        assert refusal(**{field: text}).isprintable()


AMOUNTS = ("worker_cores", "worker_memory", "worker_gpus", "worker_threads", "scheduler_cores")
TIMES = ("scheduler_memory", "walltime", "idle_timeout")


@pytest.mark.parametrize("field", [*AMOUNTS, *TIMES])
def test_hostile_types(field: str) -> None:
    """Whatever stands where an amount belongs is taken as one, or refused by the field's name."""
    for kind, value in wrong_types().items():
        refused = f"{field}: "
        try:
            got(**{field: value})
        except RequestRefusedError as error:
            refused = str(error)
        assert refused.startswith(f"{field}: "), kind
        assert len(refused) < 300, kind


def test_a_stock_client_reads_the_options() -> None:
    """The stock client's own options take the specification, and what they send is accepted."""
    options = ProfileOptions(CATALOGUE, ALICE, site=SITE, here=Here("gpu"))
    sent = ClientOptions._from_spec(json.loads(json.dumps(options.get_specification())))
    assert list(sent) == list(FIELDS)
    assert sent.profile == "gpu"
    sent.profile = "general"
    sent.worker_cores = 2
    with pytest.raises(ValueError, match="not a valid option"):
        sent.environment = "secret"
    parsed = options.parse_options(dict(sent))
    configuration = options.get_configuration(parsed, None)
    assert configuration["worker_cores"] == 2.0
    assert configuration["worker_memory"] == 8 * 2**30
    assert configuration["idle_timeout"] == 3600.0
    assert configuration["request"]["owner"]["name"] == "alice"


SEVERAL = load(
    [
        {"slug": "pods", "display_name": "P", "default": True, "cpu": 1, "kubernetes": {}},
        {
            "slug": "soonest",
            "display_name": "S",
            "cpu": 1,
            "policy": "soonest",
            "kubernetes": {},
            "slurm": {"partition": "general"},
            "options": {
                "size": {
                    "display_name": "Size",
                    "choices": {
                        "small": {"display_name": "S"},
                        "big": {
                            "display_name": "B",
                            "overrides": {"cpu": 2, "kubernetes": {"cpu_request": "100m"}},
                        },
                    },
                }
            },
        },
        {
            "slug": "ask",
            "display_name": "A",
            "cpu": 1,
            "policy": "ask",
            "kubernetes": {},
            "slurm": {},
            "local": {},
        },
    ]
)


def several(*backends: str, here: Here | None = None, **asked: Any) -> ClusterRequest:
    return build(startable(SEVERAL, backends), ALICE, asked, site=Site(), here=here)


def test_only_what_the_gateway_can_start() -> None:
    """A profile is offered where the gateway starts clusters, and runs on the first block of those."""
    on_slurm = ProfileOptions(startable(SEVERAL, ["slurm"]), ALICE, site=Site())
    (profiles, *_) = on_slurm.get_specification()
    assert profiles["spec"]["options"] == ["soonest", "ask"]
    assert profiles["default"] == "soonest"
    with pytest.raises(RequestRefusedError, match="no profile 'pods' for clusters. You may ask"):
        several("slurm", profile="pods")
    assert several("slurm").backend == "slurm"
    assert several("slurm", "kubernetes", profile="soonest").backend == "kubernetes"
    assert several("kubernetes").slug == "pods"
    assert not startable(SEVERAL, []).profiles
    # of one block that is left nobody is asked
    only = several("slurm", profile="ask")
    assert (only.backend, only.backends, only.options) == ("slurm", ("slurm",), {})
    asked = several("slurm", "local", profile="ask", options={"backend": "local"})
    assert asked.backend == "local"
    with pytest.raises(RequestRefusedError, match="You may ask for: slurm, local"):
        several("slurm", "local", profile="ask", options={"backend": "kubernetes"})


def test_where_the_server_is() -> None:
    """A cluster of the server's profile is where the server is, if the gateway has that; else the first."""
    both = ("slurm", "kubernetes")
    here = Here("soonest", {"size": "big"}, "slurm")
    beside = several(*both, here=here)
    assert (beside.slug, beside.backend, beside.options) == ("soonest", "slurm", {"size": "big"})
    assert ClusterRequest.from_json(json.loads(json.dumps(beside.to_json()))) == beside
    assert several("kubernetes", here=here, profile="soonest").backend == "kubernetes"
    # it says nothing of other profiles, and nothing if it is not known
    assert several(*both, here=Here("pods", {}, "kubernetes"), profile="soonest").backend == (
        "kubernetes"
    )
    assert several(*both, here=Here("soonest")).backend == "kubernetes"
    assert several(*both, here=Here("soonest", {}, "local")).backend == "kubernetes"
    # what the server was asked is kept as far as it can be
    chosen = Here("ask", {"backend": "kubernetes"}, "kubernetes")
    assert several(*both, "local", here=chosen).backend == "kubernetes"
    assert several("slurm", here=chosen).backend == "slurm"


def test_nobody_offers_anything() -> None:
    """Who may use no profile sees no option, and a refusal in words."""
    options = ProfileOptions(load([]), ALICE, site=SITE)
    assert options.get_specification() == []
    with pytest.raises(RequestRefusedError, match="no profile"):
        options.parse_options({})


def test_who_may_not_create() -> None:
    """Who lacks the role is told so, whatever they ask for."""
    options = ProfileOptions(CATALOGUE, ALICE, site=SITE, refused="You may not make clusters.")
    with pytest.raises(RequestRefusedError, match="You may not make clusters"):
        options.parse_options({})
    with pytest.raises(RequestRefusedError, match="You may not make clusters"):
        options.get_configuration({}, None)


def test_rules_of_a_site() -> None:
    """A profile's rules stand before the site's, field by field."""
    site = Site.model_validate(
        {
            "rules": {"idle_timeout": "30 min", "max_workers": 50, "scheduler_memory": "4 GiB"},
            "profiles": {"general": {"idle_timeout": None}, "gpu": {"idle_timeout_max": "10 min"}},
        }
    )
    general = build(CATALOGUE, ALICE, {}, site=site)
    assert general.idle_timeout is None
    assert (general.max_workers, str(general.scheduler.memory)) == (50, "4 GiB")
    gpu = build(CATALOGUE, ALICE, {"profile": "gpu"}, site=site)
    assert str(gpu.idle_timeout) == "10 min"
    with pytest.raises(RequestRefusedError, match="never"):
        build(CATALOGUE, ALICE, {"profile": "gpu", "idle_timeout": "never"}, site=site)
