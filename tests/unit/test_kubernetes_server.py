"""A pod's decisions: whose it is, when it is over, and that no other pod is ever ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from qhub_spawner.access import Selection
from qhub_spawner.errors import KubernetesRefusedError, KubernetesUnavailableError
from qhub_spawner.kubernetes import names, patience
from qhub_spawner.kubernetes import server as module
from qhub_spawner.kubernetes.manifest import Settings
from qhub_spawner.kubernetes.server import KubernetesServer
from qhub_spawner.kubernetes.watching import Watch
from qhub_spawner.launch import (
    Launch,
    NoCapacityError,
    ServerAddress,
    StartFailedError,
    StopFailedError,
)
from qhub_spawner.profiles import Profile

LOG = logging.getLogger("drill")
NAMESPACE, NAME = "people", "jupyter-alice"
KEY = (NAMESPACE, NAME)
ADDRESS = ServerAddress("10.1.0.9", 8888)
SILENCE = KubernetesUnavailableError("Kubernetes is silent")
NOT_FOUND = {"reason": "NotFound", "message": "pods not found"}
QUOTA = (
    'pods "jupyter-alice" is forbidden: exceeded quota: people, requested: pods=1, used: pods=3, '
    "limited: pods=3"
)
RUNNING = {
    "phase": "Running",
    "podIP": "10.1.0.9",
    "containerStatuses": [{"name": "notebook", "state": {"running": {}}}],
}
PENDING = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu.",
        }
    ],
}


def refused(status: int, reason: str, message: str = "no") -> KubernetesRefusedError:
    return KubernetesRefusedError(status, {"reason": reason, "message": message, "code": status})


class Cluster:
    """An API server with pods alone, whose watch is always up to date unless it is blind.

    Attributes:
        pods: By namespace and name.
        faults: What becomes of the next requests, by method: an error that is raised before
            anything is done, or ``("after", error)`` when it has been done.
        graces: Seconds of grace of each deletion.
        asked: Method, and for a deletion the uid that was named, of each request.
        blind: Whether the watch hears of nothing.
        status: What new pods are.
        stubborn: Whether deleted pods stay, on their way out.
    """

    def __init__(self) -> None:
        self.pods: dict[tuple[str, str], dict[str, Any]] = {}
        self.faults: dict[str, list[Any]] = {}
        self.asked: list[Any] = []
        self.graces: list[int | None] = []
        self.blind = self.stubborn = False
        self.status: Mapping[str, Any] = RUNNING
        self._number = 100
        self.watch = Watch(self, "/pods", LOG)  # type: ignore[arg-type]
        self.watch.lists, self.watch.problem, self.watch._version = 1, None, "0"

    def _next(self) -> str:
        self._number += 1
        return str(self._number)

    def put(self, manifest: Mapping[str, Any], **status: Any) -> dict[str, Any]:
        """Have a pod, or another state of it."""
        meta = dict(manifest["metadata"])
        meta |= {"namespace": NAMESPACE, "resourceVersion": self._next()}
        meta.setdefault("uid", f"uid-{meta['resourceVersion']}")
        now = {**self.status, **status}
        placed = {} if now["phase"] == "Pending" else {"nodeName": "node1"}
        spec = {**manifest["spec"], **placed}
        found = {**manifest, "metadata": meta, "spec": spec, "status": now}
        self.pods[NAMESPACE, meta["name"]] = found
        if not self.blind:
            self.watch._put((NAMESPACE, meta["name"]), found)
        return found

    def remove(self, key: tuple[str, str] = KEY) -> None:
        """Have it no more."""
        self.pods.pop(key, None)
        if not self.blind:
            self.watch._drop(key)

    async def _fault(self, method: str) -> Callable[[], None]:
        await asyncio.sleep(0)
        waiting = self.faults.get(method) or []
        fault = waiting.pop(0) if waiting else None
        if isinstance(fault, asyncio.Event):
            await fault.wait()
            fault = None
        if isinstance(fault, BaseException):
            raise fault

        def after() -> None:
            if fault is not None:
                raise fault[1]

        return after

    async def create(self, kind: str, namespace: str, manifest: Mapping[str, Any]) -> Any:
        assert (kind, namespace) == ("pods", NAMESPACE)
        self.asked.append("create")
        after = await self._fault("create")
        if (namespace, manifest["metadata"]["name"]) in self.pods:
            raise refused(409, "AlreadyExists")
        made = self.put(manifest)
        after()
        return made

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        assert kind == "pods"
        self.asked.append("get")
        (await self._fault("get"))()
        return self.pods.get((namespace, name))

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str | None, grace: int | None
    ) -> bool:
        assert kind == "pods"
        self.asked.append(("delete", uid))
        self.graces.append(grace)
        after = await self._fault("delete")
        found = self.pods.get((namespace, name))
        if found is None or (uid is not None and found["metadata"]["uid"] != uid):
            return False
        if self.stubborn:
            meta = {**found["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
            self.put({**found, "metadata": meta}, **found["status"])
        else:
            self.remove((namespace, name))
        after()
        return True

    @property
    def deleted(self) -> list[str | None]:
        return [each[1] for each in self.asked if isinstance(each, tuple)]


class Owner:
    """The hub's spawner, as far as a server knows it."""

    def __init__(self, user: str = "alice", name: str = "") -> None:
        self.log = LOG
        self.records: list[Any] = []
        self.ended = 0
        self.server: KubernetesServer | None = None
        self.user = SimpleNamespace(name=user)
        self.name = name

    def persist(self) -> None:
        assert self.server is not None
        self.records.append(self.server.state())

    def server_ended(self) -> None:
        self.ended += 1


class Pods:
    """The traits of KubeSpawner, as far as a server asks for them."""

    namespace, pod_name = NAMESPACE, NAME
    enable_user_namespaces = storage_pvc_ensure = False
    delete_stopped_pods = True
    after_pod_created_hook = get_pod_url = None

    def apply(self, traits: object) -> None:
        """Take nothing."""

    def fit(self, profile: object) -> None:
        """Take nothing."""

    async def pod(self) -> Any:
        container = {"name": "notebook", "args": ["server"]}
        return {"metadata": {"name": NAME}, "spec": {"containers": [container]}}

    async def hooked(self, pod: Any) -> Any:
        return pod

    def dependants(self, pod: object) -> list[Any]:
        return []

    def url_of(self, pod: Any) -> str:
        return f"http://{pod['status']['podIP']}:8888"


class Setting:
    """A backend on a scripted cluster, and servers on it."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cleared: list[KubernetesServer] = []
        self.events: list[Any] = []
        self.backend = SimpleNamespace(
            api=self.cluster,
            watch_pods=self.cluster.watch,
            hub_id="prod",
            settings=Settings(),
            live={},
            stop_timeout=0.3,
            startup_timeout=0.3,
            capacity_patience=0.0,
            stuck_patience=0.0,
            answer_timeout=0.1,
            events_of=lambda uid: self.events if uid else [],
            changed=lambda key, seconds: self.cluster.watch.changed(key, min(seconds, 0.01)),
            clear_away=self.cleared.append,
        )
        self.owner = Owner()
        self.server = self.another()

    def another(self, owner: Owner | None = None) -> KubernetesServer:
        """A server of the same person, as after a restart of the hub."""
        owner = owner or self.owner
        server = KubernetesServer(self.backend, owner)  # type: ignore[arg-type]
        owner.server = server
        self.cluster.watch.on_change[:] = [
            lambda key, _found: key in self.backend.live and self.backend.live[key].changed()
        ]
        return server

    def begin(self, **more: Any) -> asyncio.Task[ServerAddress]:
        """Begin a start."""
        profile = Profile.model_validate({"slug": "p", "display_name": "P", "kubernetes": {}})
        selection = Selection(profile, "p", {}, "kubernetes")
        launch = Launch("alice", "", selection, {}, ("server",), **{"grace_seconds": 0.0, **more})
        return asyncio.ensure_future(self.server.start(launch))

    def foreign(self, hub: str = "prod", spawn: str = "0" * 16, **meta: Any) -> dict[str, Any]:
        """A pod of the same name that another start has made."""
        labels = names.labels(hub, spawn) if hub else {}
        return self.cluster.put({"metadata": {"name": NAME, "labels": labels, **meta}, "spec": {}})


@pytest.fixture
def listening() -> dict[str, bool]:
    """Whether servers listen."""
    return {"now": True}


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, listening: dict[str, bool]) -> Setting:
    """A person without a server."""

    async def listens(_: object) -> bool:
        await asyncio.sleep(0)
        return listening["now"]

    monkeypatch.setattr(module, "_listens", listens)
    monkeypatch.setattr(module.PodSpawner, "beside", lambda _owner: Pods())
    setting = Setting()
    # waits of the watch are short
    real = setting.cluster.watch.changed

    async def changed(key: Any = None, timeout_seconds: float | None = None) -> None:
        await real(key, min(timeout_seconds or 0.01, 0.01))

    monkeypatch.setattr(setting.cluster.watch, "changed", changed)
    return setting


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


# --- start


async def test_start(setting: Setting) -> None:
    """The name is on record before Kubernetes hears of it, and what is needed later after."""
    address = await setting.begin()
    assert address == ADDRESS
    first, *_, last = setting.owner.records
    assert (first["pod"], first["uid"]) == (NAME, None)
    assert last["uid"] == setting.cluster.pods[KEY]["metadata"]["uid"]
    assert last["address"] == {"host": "10.1.0.9", "port": 8888}
    assert setting.cluster.asked == ["create"]
    assert await setting.server.poll() is None
    assert setting.cluster.asked == ["create"], "a server that lives costs no request"


@pytest.mark.parametrize("replies", [[("after", SILENCE)], [SILENCE, ("after", SILENCE), SILENCE]])
async def test_replies_are_lost(
    setting: Setting, replies: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier request has made is found by its mark: there is one pod."""
    short(monkeypatch)
    setting.cluster.faults["create"] = replies
    await setting.begin()
    assert len(setting.cluster.pods) == 1
    assert setting.cluster.deleted == []
    assert setting.server.uid == setting.cluster.pods[KEY]["metadata"]["uid"]


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every pause between two tries be short."""
    real = asyncio.sleep
    monkeypatch.setattr(module.asyncio, "sleep", lambda seconds: real(min(seconds, 0.001)))


async def test_pod_of_another_hub_is_in_the_way(setting: Setting) -> None:
    """It is let alone, and the person told."""
    theirs = setting.foreign(hub="other")
    with pytest.raises(StartFailedError, match="of another hub is in the way") as raised:
        await setting.begin()
    assert raised.value.status_code == 409
    assert setting.cluster.pods[KEY] is theirs
    await setting.server.stop()
    assert setting.cluster.deleted == []
    assert setting.cluster.pods[KEY] is theirs


async def test_pod_of_nobody_is_in_the_way(setting: Setting) -> None:
    """A pod that is not a server of this person is let alone, whoever made it."""
    theirs = setting.foreign(hub="", annotations={"hub.jupyter.org/username": "bob"})
    with pytest.raises(StartFailedError, match="is in the way"):
        await setting.begin()
    assert setting.cluster.pods[KEY] is theirs


@pytest.mark.parametrize(
    "whose", [{}, names.owner_annotations("bob", ""), names.owner_annotations("alice", "other")]
)
async def test_pod_of_another_server_is_in_the_way(setting: Setting, whose: Any) -> None:
    """Of one name by a template, or because two people's names were made to share one: let alone."""
    theirs = setting.foreign(annotations=whose)
    with pytest.raises(StartFailedError, match="of another server is in the way") as raised:
        await setting.begin()
    assert raised.value.status_code == 409
    await setting.server.stop()
    assert setting.cluster.pods[KEY] is theirs


@pytest.mark.parametrize("other", [Owner("bob"), Owner(name="other")], ids=["person", "server"])
async def test_two_servers_of_one_pod_name(setting: Setting, other: Owner) -> None:
    """The second one is refused before anything is asked; the first one lives, and is watched."""
    await setting.begin()
    first, pods = setting.server, dict(setting.cluster.pods)
    setting.server = setting.another(other)
    asked = list(setting.cluster.asked)
    with pytest.raises(StartFailedError, match="of another server is in the way"):
        await setting.begin()
    await setting.server.stop()
    assert setting.cluster.asked == asked
    assert setting.cluster.pods == pods
    assert setting.backend.live == {KEY: first}
    assert other.records == []


@pytest.mark.parametrize("mine", ["prod", ""], ids=["an earlier start", "stock KubeSpawner"])
async def test_last_server_is_still_there(setting: Setting, mine: str) -> None:
    """One of this person's that no server owns is ended, that one only, and makes room."""
    notes = {"hub.jupyter.org/username": "alice", **names.owner_annotations("alice", "")}
    old = setting.foreign(hub=mine, annotations=notes)
    await setting.begin()
    assert setting.cluster.deleted == [old["metadata"]["uid"]]
    assert setting.server.uid != old["metadata"]["uid"]


async def test_last_server_does_not_go(setting: Setting) -> None:
    """It is waited for, for a while; then the person is told where it hangs."""
    setting.cluster.stubborn = True
    setting.foreign(annotations=names.owner_annotations("alice", ""))
    with pytest.raises(StartFailedError, match="still being removed") as raised:
        await setting.begin()
    assert raised.value.status_code == 503
    assert len(setting.cluster.deleted) == 1


async def test_quota_is_want_of_room(setting: Setting) -> None:
    """Another backend may have some; any other refusal is final."""
    setting.cluster.faults["create"] = [refused(403, "Forbidden", QUOTA)]
    with pytest.raises(NoCapacityError, match="quota allows 3 pods"):
        await setting.begin()
    setting.cluster.faults["create"] = [refused(403, "Forbidden", "no such right")]
    with pytest.raises(StartFailedError) as raised:
        await setting.begin()
    assert not isinstance(raised.value, NoCapacityError)


async def test_no_room_on_any_node(setting: Setting) -> None:
    """With an alternative it is given up; without one it waits."""
    setting.cluster.status = PENDING
    with pytest.raises(NoCapacityError):
        await setting.begin(alternatives=True)
    await setting.server.stop(now=True)
    starting = setting.begin()
    await asyncio.sleep(0.05)
    assert not starting.done()
    setting.cluster.put(setting.cluster.pods[KEY], **RUNNING)
    await starting


async def test_pod_that_ends_during_its_start(setting: Setting) -> None:
    """The start fails, and says why."""
    failed = {"name": "notebook", "state": {"terminated": {"exitCode": 3}}}
    setting.cluster.status = {"phase": "Failed", "containerStatuses": [failed]}
    with pytest.raises(StartFailedError, match="exit code 3"):
        await setting.begin()


async def test_pod_that_the_watch_does_not_see(setting: Setting) -> None:
    """One whose labels somebody took away is found by asking, and its start goes on."""
    setting.cluster.blind = True
    assert await setting.begin() == ADDRESS
    setting.cluster.watch._drop(KEY)
    setting.cluster.watch._version = "1000000"
    assert await setting.server.poll() is None
    await setting.server.stop(now=True)
    starting = setting.begin()
    assert await starting == ADDRESS


async def test_server_that_never_listens(setting: Setting, listening: dict[str, bool]) -> None:
    """A time for it is set."""
    listening["now"] = False
    with pytest.raises(StartFailedError, match="did not listen within"):
        await setting.begin()


@pytest.mark.parametrize("kind", ["waits", "lost"])
async def test_start_ended_while_the_pod_is_made(
    setting: Setting, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is waited for, and what it made is ended."""
    short(monkeypatch)
    gate = asyncio.Event()
    setting.cluster.faults["create"] = [gate] if kind == "waits" else [("after", SILENCE), gate]
    starting = setting.begin()
    await until(lambda: setting.cluster.asked.count("create") == (1 if kind == "waits" else 2))
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    stopping = asyncio.ensure_future(setting.server.stop(now=True))
    await asyncio.sleep(0.01)
    assert not stopping.done()
    gate.set()
    await stopping
    assert setting.cluster.pods == {}


async def test_start_ended_while_kubernetes_is_silent(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further request is made; if the last one made a pod, it is found and ended."""
    short(monkeypatch)
    setting.cluster.faults["create"] = [SILENCE] * 3 + [("after", SILENCE)] + [SILENCE] * 1000
    starting = setting.begin()
    await until(lambda: len(setting.cluster.pods) == 1)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await setting.server.stop(now=True)
    assert setting.cluster.pods == {}
    before = setting.cluster.asked.count("create")
    await asyncio.sleep(0.02)
    assert setting.cluster.asked.count("create") == before


# --- life


async def test_only_kubernetes_own_word_ends_it(setting: Setting) -> None:
    """Missing in the watch, it is asked for; silence, nonsense and trouble are no answer."""
    await setting.begin()
    watch = setting.cluster.watch
    watch._drop(KEY)
    setting.cluster.faults["get"] = [
        SILENCE,
        refused(404, "", "404 page not found"),
        refused(403, "Forbidden"),
        refused(401, "Unauthorized"),
    ]
    for _ in range(4):
        assert await setting.server.poll() is None
    # a watch that does not run is not asked to judge: nor is anybody else
    setting.cluster.remove()
    asked = len(setting.cluster.asked)
    watch.problem = "away"
    assert await setting.server.poll() is None
    assert len(setting.cluster.asked) == asked
    watch.problem = None
    ended = await setting.server.poll()
    assert ended is not None
    assert "deleted" in ended.words


async def test_it_is_there_after_all(setting: Setting) -> None:
    """A pod that the watch has lost is taken up again."""
    await setting.begin()
    setting.cluster.watch.objects.clear()
    assert await setting.server.poll() is None
    assert KEY in setting.cluster.watch.objects


async def test_another_took_its_place(setting: Setting) -> None:
    """A pod of its name with another mark is another server: ours is over, theirs stays."""
    await setting.begin()
    setting.cluster.remove()
    theirs = setting.foreign(hub="other")
    assert (await setting.server.poll()) is not None
    await setting.server.stop(now=True)
    assert setting.cluster.pods[KEY] is theirs


async def test_an_end_is_told_at_once_and_cleared_away(setting: Setting) -> None:
    """The hub hears of it without asking; the pod that is over is deleted, once it is polled."""
    await setting.begin()
    setting.cluster.put(setting.cluster.pods[KEY], podIP="10.1.0.9", qosClass="Burstable")
    assert setting.owner.ended == 0
    failed = {"name": "notebook", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    setting.cluster.put(setting.cluster.pods[KEY], phase="Failed", containerStatuses=[failed])
    assert setting.owner.ended == 1
    ended = await setting.server.poll()
    assert ended is not None
    assert (ended.exit_code, "memory limit" in ended.words) == (137, True)
    assert setting.cleared == [setting.server]


async def test_poll_while_the_pod_is_made(setting: Setting) -> None:
    """It is not over because it is not there yet."""
    gate = asyncio.Event()
    setting.cluster.faults["create"] = [gate]
    starting = setting.begin()
    await until(lambda: setting.cluster.asked == ["create"])
    assert await setting.server.poll() is None
    gate.set()
    await starting


# --- stop


async def test_stop(setting: Setting) -> None:
    """This pod is deleted, by its uid, and it is over when Kubernetes says that it is gone."""
    await setting.begin()
    uid = setting.server.uid
    await setting.server.stop()
    assert setting.cluster.deleted == [uid]
    assert setting.cluster.pods == {}
    assert setting.backend.live == {}
    assert setting.owner.ended == 0, "an end that was asked for is no news"


@pytest.mark.parametrize(
    ("grace", "now", "asked"),
    [(10.0, False, 10), (10.0, True, 1), (0.0, False, 1), (0.4, False, 1), (2.5, False, 3)],
)
async def test_no_end_by_force(setting: Setting, grace: float, now: bool, asked: int) -> None:
    """There is always some grace: without any, Kubernetes forgets a pod that may still run."""
    await setting.begin(grace_seconds=grace)
    await setting.server.stop(now=now)
    assert setting.cluster.graces == [asked]


async def test_stop_waits_for_kubernetes(setting: Setting) -> None:
    """As long as its processes may run it is not stopped, and it says so."""
    await setting.begin()
    setting.cluster.stubborn = True
    with pytest.raises(StopFailedError, match="still being removed"):
        await setting.server.stop(now=True)


async def test_stop_of_what_cannot_be_removed(setting: Setting) -> None:
    """When its processes are gone it is stopped, though the object stays."""
    await setting.begin()
    setting.cluster.stubborn = True
    ended = {"name": "notebook", "state": {"terminated": {"exitCode": 0}}}
    stopping = asyncio.ensure_future(setting.server.stop(now=True))
    await until(lambda: setting.cluster.deleted)
    setting.cluster.put(setting.cluster.pods[KEY], phase="Succeeded", containerStatuses=[ended])
    await stopping


async def test_stop_through_silence(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again, until Kubernetes answers; too late is an error, and no end."""
    short(monkeypatch)
    await setting.begin()
    setting.cluster.faults["delete"] = [SILENCE, ("after", SILENCE)]
    await setting.server.stop(now=True)
    assert setting.cluster.pods == {}
    await setting.begin()
    setting.cluster.faults["delete"] = [SILENCE] * 100_000
    with pytest.raises(StopFailedError, match="silent"):
        await setting.server.stop(now=True)
    assert KEY in setting.cluster.pods
    # it goes on as before, and its end is noticed and cleared away as any other's
    assert await setting.server.poll() is None
    setting.cluster.remove()
    assert await setting.server.poll() is not None
    assert setting.cleared == [setting.server]


NOT_YET = (
    'pods is forbidden: User "hub" cannot create resource "pods" in API group ""',
    'pods "jupyter-alice" is forbidden: not yet ready to handle request',
    'pods "jupyter-alice" is forbidden: status unknown for quota: people, resources: pods',
)


@pytest.mark.parametrize(
    "no", [*(refused(403, "Forbidden", words) for words in NOT_YET), refused(401, "Unauthorized")]
)
async def test_an_api_server_that_has_just_started(
    setting: Setting, no: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it knows who may do what it refuses everybody: neither start nor stop fails for it."""
    short(monkeypatch)
    setting.cluster.faults["create"] = [no, no]
    await setting.begin()
    setting.cluster.faults["delete"] = [no, no]
    await setting.server.stop(now=True)
    assert setting.cluster.pods == {}
    monkeypatch.setattr(patience, "_RIGHTS_SECONDS", 0.0)
    setting.cluster.faults["create"] = [no]
    with pytest.raises(StartFailedError):
        await setting.begin()


async def test_stop_is_refused(setting: Setting) -> None:
    """The hub lacks the right: it says so at once."""
    await setting.begin()
    setting.cluster.faults["delete"] = [refused(403, "Forbidden")]
    with pytest.raises(StopFailedError, match="does not let the hub"):
        await setting.server.stop()


# --- the next hub


def restored(setting: Setting, state: Mapping[str, Any]) -> KubernetesServer:
    """The server, as the next hub finds it on record."""
    setting.backend.live.clear()
    server = setting.another(Owner())
    server._pods = Pods()  # type: ignore[assignment]
    server.restore(state)
    return server


async def test_the_next_hub_takes_it_up(setting: Setting) -> None:
    """By what is on record, in which there is nothing secret; no request is made for it."""
    await setting.begin()
    state = setting.owner.records[-1]
    before = len(setting.cluster.asked)
    server = restored(setting, state)
    assert not server.unfinished
    assert server.address == ServerAddress("10.1.0.9", 8888)
    assert await server.poll() is None
    assert len(setting.cluster.asked) == before
    assert server.state() == state
    await server.stop(now=True)
    assert setting.cluster.pods == {}


async def test_the_next_hub_goes_on_with_a_start(setting: Setting) -> None:
    """From the first record on: the pod is found by its mark, though its uid is not known."""
    setting.cluster.status = PENDING
    starting = setting.begin()
    await until(lambda: KEY in setting.cluster.pods)
    starting.cancel()
    server = restored(setting, setting.owner.records[0])
    assert server.unfinished
    resuming = asyncio.ensure_future(server.resume())
    await asyncio.sleep(0.02)
    assert not resuming.done()
    setting.cluster.put(setting.cluster.pods[KEY], **RUNNING)
    assert await resuming == ServerAddress("10.1.0.9", 8888)


@pytest.mark.parametrize("there", ["nothing", "another"])
async def test_the_next_hub_finds_nothing(setting: Setting, there: str) -> None:
    """Kubernetes never had it: the person is asked to start again; what is there is let alone."""
    gate = asyncio.Event()
    setting.cluster.faults["create"] = [gate]
    starting = setting.begin()
    await until(lambda: setting.cluster.asked)
    assert setting.server._creating is not None
    setting.server._creating.cancel()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    if there == "another":
        setting.foreign(hub="other")
    server = restored(setting, setting.owner.records[0])
    with pytest.raises(StartFailedError, match="before Kubernetes had your server"):
        await server.resume()
    await server.stop(now=True)
    assert setting.cluster.deleted == []


async def test_a_version_that_is_unknown_is_no_pod(setting: Setting) -> None:
    """A record of another kind is not taken for one of ours."""
    server = setting.another()
    server.restore({"job_id": 7})
    assert server.pod_name == ""
    assert await server.poll() is not None
    await server.stop()
    assert setting.cluster.asked == []
