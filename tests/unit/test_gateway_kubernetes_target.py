"""Clusters on a Kubernetes in memory: nothing made twice or lost, exactly these ended, in bulk."""

from __future__ import annotations

import asyncio
import copy
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from traitlets.config import Config, LoggingConfigurable

from qhub_gateway import kubernetes_logs
from qhub_gateway import kubernetes_manifest as manifest
from qhub_gateway.errors import (
    HostRefusedError,
    LogElsewhereError,
    StartRefusedError,
    TargetSilentError,
)
from qhub_gateway.targets import kubernetes as target_module
from qhub_gateway.targets.kubernetes import KubernetesTarget
from qhub_gateway.targets.target import JobRef, Phase, WorkerSpec
from qhub_spawner.errors import (
    ConfigurationError,
    KubernetesRefusedError,
    KubernetesUnavailableError,
)
from qhub_spawner.kubernetes import backend as backend_module
from tests.unit.scripted_door import until
from tests.unit.test_gateway_kubernetes_manifest import spec_of

SILENCE = KubernetesUnavailableError("Kubernetes is silent")
QUOTA = 'pods "x" is forbidden: exceeded quota: people, requested: pods=1, used: pods=2, limited: pods=2'


def refusal(status: int, reason: str, message: str = "no") -> KubernetesRefusedError:
    """An answer that says no, as the API server gives it."""
    document = {"code": status, "reason": reason, "message": message}
    return KubernetesRefusedError(status, document)


class MemoryKubernetes:
    """What the target asks of an API server, with its versions, watches, and faults of a test's.

    Attributes:
        objects: By kind and name.
        asked: How often each was asked: verb and kind.
        before: Called with verb, kind and name of each request; what it raises is the answer, and
            nothing was done.
        after: Likewise, and it was done.
        grace: Whether pods stay until `gone` is called.
    """

    def __init__(self) -> None:
        """Empty."""
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.before: Callable[[str, str, str], None] = lambda *_: None
        self.after: Callable[[str, str, str], None] = lambda *_: None
        self.grace = False
        self.logs: dict[str, str] = {}
        self._version = 0
        self._streams: list[tuple[str, asyncio.Queue[tuple[str, Any]]]] = []

    def __call__(self, *_: object, **__: object) -> MemoryKubernetes:
        """Stand in for the class of the API."""
        return self

    async def close(self) -> None:
        """Nothing is open."""

    # ---- what a test does

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the pods by name."""
        return {name: found for (kind, name), found in self.objects.items() if kind == "pods"}

    def run(self, name: str) -> None:
        """Have a pod run."""
        self.change(name, _status("Running", {"running": {"startedAt": "2026-11-21T12:00:00Z"}}))

    def end(self, name: str, code: int = 1) -> None:
        """Have a pod's container end."""
        ended = {"terminated": {"exitCode": code, "reason": "Error"}}
        self.change(name, _status("Failed", ended))

    def change(self, name: str, status: Mapping[str, Any]) -> None:
        """Set a pod's status."""
        self.objects["pods", name]["status"] = dict(status)
        self._put("MODIFIED", "pods", name)

    def gone(self, name: str, kind: str = "pods") -> None:
        """Have an object be no more."""
        found = self.objects[kind, name]
        self._tell("DELETED", kind, found)
        del self.objects[kind, name]

    # ---- the API

    async def create(self, kind: str, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        await self._ask("POST", kind, name)
        if (kind, name) in self.objects:
            raise refusal(409, "AlreadyExists")
        made = copy.deepcopy(dict(body))
        made["metadata"] |= {"uid": f"uid-{name}", "namespace": namespace}
        made.setdefault("status", {"phase": "Pending"})
        self.objects[kind, name] = made
        self._put("ADDED", kind, name)
        self.after("POST", kind, name)
        return copy.deepcopy(made)

    async def get(self, kind: str, _namespace: str, name: str) -> dict[str, Any] | None:
        await self._ask("GET", kind, name)
        return copy.deepcopy(self.objects.get((kind, name)))

    async def delete(
        self, kind: str, _namespace: str, name: str, *, uid: str | None = None, grace: int | None
    ) -> bool:
        del uid, grace
        await self._ask("DELETE", kind, name)
        there = (kind, name) in self.objects
        if there:
            self._delete(kind, name)
        self.after("DELETE", kind, name)
        return there

    async def delete_all(self, kind: str, _namespace: str, labels: str, *, grace: int) -> None:
        del grace
        await self._ask("DELETE", f"{kind}?", labels)
        for found in [name for (of, name) in self.objects if of == kind]:
            if _selects(labels, self.objects[kind, found]["metadata"].get("labels", {})):
                self._delete(kind, found)

    async def request(self, method: str, path: str, *, query: Mapping[str, str]) -> dict[str, Any]:
        kind = path.rpartition("/")[2]
        await self._ask(method, kind, "")
        items = [
            copy.deepcopy(found)
            for (of, _), found in self.objects.items()
            if of == kind and _selects(query.get("labelSelector", ""), _labels(found))
        ]
        return {"metadata": {"resourceVersion": str(self._version)}, "items": items}

    async def watch(
        self, path: str, query: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncIterator[tuple[str, Any]]:
        del silence_seconds
        stream: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._streams.append((path.rpartition("/")[2], stream))
        yield "CONNECTED", {}
        while True:
            kind, found = await stream.get()
            if _selects(query.get("labelSelector", ""), _labels(found)):
                yield kind, found

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        assert query["container"] == "notebook"
        name = path.split("/")[-2]
        await self._ask("GET", "log", name)
        if name not in self.logs:
            raise refusal(404, "NotFound")
        return self.logs[name]

    async def _ask(self, verb: str, kind: str, name: str) -> None:
        self.asked[verb, kind] += 1
        await asyncio.sleep(0)
        self.before(verb, kind, name)

    def _delete(self, kind: str, name: str) -> None:
        if self.grace:
            self.objects[kind, name]["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
            self._put("MODIFIED", kind, name)
        else:
            self.gone(name, kind)

    def _put(self, change: str, kind: str, name: str) -> None:
        self._tell(change, kind, self.objects[kind, name])

    def _tell(self, change: str, kind: str, found: dict[str, Any]) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        for of, stream in self._streams:
            if of == kind:
                stream.put_nowait((change, copy.deepcopy(found)))


def _labels(found: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = found["metadata"].get("labels", {})
    return labels


def _selects(selector: str, labels: Mapping[str, str]) -> bool:
    for key, one, several in re.findall(r"([\w./-]+)(?:=([\w./-]+)| in \(([^)]*)\))", selector):
        if labels.get(key) not in ([one] if one else several.split(",")):
            return False
    return True


def _status(phase: str, state: Mapping[str, Any]) -> dict[str, Any]:
    container = {"name": "notebook", "state": state, "restartCount": 0}
    return {"phase": phase, "podIP": "10.0.0.9", "containerStatuses": [container]}


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> MemoryKubernetes:
    """A Kubernetes in the place of the real one; pauses are short."""
    memory = MemoryKubernetes()
    monkeypatch.setattr(backend_module, "ApiClient", lambda: memory)
    monkeypatch.setattr(backend_module, "KubernetesApi", memory)
    monkeypatch.setattr(backend_module.KubernetesBackend, "_find_cluster", lambda _: None)
    for name in ("_FIRST_PAUSE_SECONDS", "_TEND_SECONDS", "_GATHER_SECONDS"):
        monkeypatch.setattr(target_module, name, 0.01)
    return memory


Open = Callable[..., Any]


@pytest.fixture
async def open_target(kubernetes: MemoryKubernetes) -> AsyncIterator[Open]:
    """Make targets that follow the jobs given."""
    made: list[KubernetesTarget] = []

    async def open_target(*followed: JobRef, **traits: Any) -> KubernetesTarget:
        config = Config()
        config.KubeSpawner.namespace = "people"
        config.KubeSpawner.image = "base:1"
        config.KubernetesBackend.update(traits)
        parent = LoggingConfigurable(config=config)
        target = KubernetesTarget(parent=parent, gateway_id="prod", recorded=frozenset)
        for ref in followed:
            target.follow(ref)
        await target.open()
        made.append(target)
        await until(lambda: target.watch.known)
        return target

    yield open_target
    for target in made:
        await target.close()


async def workers_of(target: KubernetesTarget, number: int) -> list[WorkerSpec]:
    """Plan workers of one cluster."""
    (group,) = target.plan_workers(spec_of(), [f"w{each}" for each in range(number)])
    return list(group)


async def test_a_scheduler_and_its_secret(open_target: Open, kubernetes: Any) -> None:
    """A pod by the name that was planned, then the secret that it owns; asked again, no other."""
    target = await open_target()
    spec = spec_of()
    ref = target.plan_scheduler(spec)
    for _ in range(2):
        assert await target.start_scheduler(spec, ref) == ref
        assert list(kubernetes.pods()) == [ref.name]
        (secret,) = [found for (kind, _), found in kubernetes.objects.items() if kind == "secrets"]
        assert secret["metadata"]["ownerReferences"][0]["uid"] == f"uid-{ref.name}"
    assert target.state(ref).phase is Phase.QUEUED
    kubernetes.run(ref.name)
    await until(lambda: target.state(ref).phase is Phase.RUNNING)
    assert target.state(ref).since == 1795262400.0


@pytest.mark.parametrize("done", [False, True])
async def test_silence(open_target: Open, kubernetes: Any, *, done: bool) -> None:
    """Whether the request was carried out or not: asked for again, it is one pod by that name."""
    target = await open_target()
    spec = spec_of()
    ref = target.plan_scheduler(spec)

    def silent(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("POST", "pods") or (verb, kind, name) == ("GET", "pods", ref.name):
            raise SILENCE

    def silent_once(verb: str, kind: str, name: str) -> None:
        kubernetes.before = silent
        silent(verb, kind, name)

    if done:
        kubernetes.after = silent_once
    else:
        kubernetes.before = silent
    with pytest.raises(TargetSilentError):
        await target.start_scheduler(spec, ref)
    if done:
        await until(lambda: target.state(ref).phase is Phase.QUEUED)
    else:
        assert target.state(ref).phase is Phase.UNKNOWN
    kubernetes.before = kubernetes.after = lambda *_: None
    await target.start_scheduler(spec, ref)
    assert list(kubernetes.pods()) == [ref.name]


async def test_a_lost_reply_heals_at_once(open_target: Open, kubernetes: Any) -> None:
    """The pod that is there already is the one that was asked for."""
    target = await open_target()
    workers = await workers_of(target, 5)
    lost = []

    def lose(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("POST", "pods") and name not in lost:
            lost.append(name)
            raise SILENCE

    kubernetes.after = lose
    assert len(await target.start_workers(spec_of(), workers)) == 5
    assert len(kubernetes.pods()) == len(lost) == 5


async def test_what_passes_is_tried_again(open_target: Open, kubernetes: Any) -> None:
    """A conflict about the quota's count, too many requests, a server that restarts."""
    target = await open_target()
    answers = [refusal(409, "Conflict"), SILENCE, refusal(403, "Forbidden", 'x" cannot create')]

    def passing(verb: str, kind: str, _: str) -> None:
        if (verb, kind) == ("POST", "pods") and answers:
            raise answers.pop(0)

    kubernetes.before = passing
    (worker,) = await workers_of(target, 1)
    assert await target.start_workers(spec_of(), [worker]) == [worker.ref]
    assert kubernetes.asked["POST", "pods"] == 4


async def test_a_refusal_ends_what_was_made(open_target: Open, kubernetes: Any) -> None:
    """The words are for the person; of the same start nothing is left."""
    target = await open_target()
    workers = await workers_of(target, 3)

    def refused(verb: str, kind: str, name: str) -> None:
        if (verb, kind, name) == ("POST", "pods", workers[2].ref.name):
            raise refusal(403, "Forbidden", 'serviceaccount "x" not found')

    kubernetes.before = refused
    with pytest.raises(StartRefusedError, match="no service account x"):
        await target.start_workers(spec_of(), workers)
    await until(lambda: not kubernetes.pods())


async def test_no_room(open_target: Open, kubernetes: Any) -> None:
    """What the quota has no room for is queued, in words, and is not asked for again and again."""
    target = await open_target()
    workers = await workers_of(target, 100)

    def full(verb: str, kind: str, _: str) -> None:
        if (verb, kind) == ("POST", "pods") and len(kubernetes.pods()) >= 2:
            raise refusal(403, "Forbidden", QUOTA)

    kubernetes.before = full
    with pytest.raises(TargetSilentError, match="quota allows 2 pods") as caught:
        await target.start_workers(spec_of(), workers)
    assert len(kubernetes.pods()) == 2
    assert caught.value.started == set(kubernetes.pods()), "these are judged from now on"
    assert kubernetes.asked["POST", "pods"] < 40
    states = [target.state(worker.ref) for worker in workers]
    assert {state.phase for state in states} == {Phase.QUEUED}
    assert sum("quota allows 2 pods" in state.words for state in states) == 98
    await target.stop([workers[-1].ref])
    assert target.state(workers[-1].ref).phase is Phase.ENDED
    kubernetes.before = lambda *_: None
    assert len(await target.start_workers(spec_of(), workers)) == 100
    assert len(kubernetes.pods()) == 100


async def test_ended_in_bulk(open_target: Open, kubernetes: Any) -> None:
    """Exactly these, in one request for each hundred; ended when Kubernetes says that they are."""
    target = await open_target()
    workers = await workers_of(target, 60)
    refs = await target.start_workers(spec_of(), workers)
    kubernetes.grace = True
    ends, stays = refs[:40], refs[40:]
    await target.stop(ends)
    assert kubernetes.asked["DELETE", "pods?"] == 1
    assert kubernetes.asked["DELETE", "pods"] == 0
    leaving = {
        name for name, pod in kubernetes.pods().items() if "deletionTimestamp" in pod["metadata"]
    }
    assert leaving == {ref.name for ref in ends}
    await until(lambda: all(target.jobs.get(ref.name).pod.deleting for ref in ends))
    assert {target.state(ref).phase for ref in refs} == {Phase.QUEUED}
    await target.stop(ends)
    assert kubernetes.asked["DELETE", "pods?"] == 1, "those on their way out are not asked again"
    for ref in ends:
        kubernetes.gone(ref.name)
    await until(lambda: all(target.state(ref).phase is Phase.ENDED for ref in ends))
    assert {target.state(ref).phase for ref in stays} == {Phase.QUEUED}


async def test_a_stop_that_is_not_answered(open_target: Open, kubernetes: Any) -> None:
    """It is said, and nothing counts as ended."""
    target = await open_target()
    (worker,) = await workers_of(target, 1)
    await target.start_workers(spec_of(), [worker])

    def silent(*_: str) -> None:
        raise SILENCE

    kubernetes.before = silent
    with pytest.raises(TargetSilentError):
        await target.stop([worker.ref])
    assert target.state(worker.ref).phase is Phase.QUEUED


async def test_taken_up(open_target: Open, kubernetes: Any) -> None:
    """A later gateway knows the pods of the jobs on record, and what has gone meanwhile."""
    first = await open_target()
    workers = await workers_of(first, 3)
    refs = await first.start_workers(spec_of(), workers)
    await first.close()
    kubernetes.run(refs[0].name)
    kubernetes.gone(refs[2].name)
    second = await open_target(*refs)
    phases = [second.state(ref).phase for ref in refs]
    assert phases == [Phase.RUNNING, Phase.QUEUED, Phase.ENDED]
    assert await second.find([refs[1]]) == [refs[1]]
    assert await second.find([refs[2]]) is None


async def test_a_pod_of_somebody_else(open_target: Open, kubernetes: Any) -> None:
    """It is let alone."""
    target = await open_target()
    (worker,) = await workers_of(target, 1)
    theirs = {"metadata": {"name": worker.ref.name, "labels": {}}}
    await kubernetes.create("pods", "people", theirs)
    with pytest.raises(StartRefusedError, match="somebody else"):
        await target.start_workers(spec_of(), [worker])
    assert kubernetes.pods()


async def test_what_cannot_start_is_given_up(open_target: Open, kubernetes: Any) -> None:
    """After some patience, and its words outlive the pod."""
    target = await open_target(stuck_patience=0.0)
    (worker,) = await workers_of(target, 1)
    await target.start_workers(spec_of(), [worker])
    name = worker.ref.name
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}
    kubernetes.objects["pods", name]["spec"]["nodeName"] = "node1"
    kubernetes.change(name, _status("Pending", waiting))
    await until(lambda: target.state(worker.ref).phase is Phase.ENDED)
    assert target.state(worker.ref).words == (
        "it could not start: the image base:1 cannot be fetched: there is no such image"
    )
    assert not kubernetes.pods()


async def test_pods_that_are_over_are_cleared_away(open_target: Open, kubernetes: Any) -> None:
    """And the end of their log can still be read."""
    target = await open_target()
    workers = await workers_of(target, 3)
    refs = await target.start_workers(spec_of(), workers)
    kubernetes.logs = {ref.name: f"log of {ref.name}" for ref in refs}
    for ref in refs[:2]:
        kubernetes.end(ref.name, 3)
    await until(lambda: target.state(refs[1]).phase is Phase.ENDED)
    assert "exit code 3" in target.state(refs[1]).words
    target.forget(refs[:2])
    await until(lambda: list(kubernetes.pods()) == [refs[2].name])
    kubernetes.logs.pop(refs[0].name)
    said = [await target.read_log(spec_of(), None, ref, 1000) for ref in refs]
    assert said == [f"log of {ref.name}" for ref in refs]
    assert await target.read_log(spec_of(), None, refs[0], 4) == refs[0].name[-4:]
    with pytest.raises(LogElsewhereError, match=r"gone: .* as pod qhub-prod-none of .* people\."):
        await target.read_log(spec_of(), None, JobRef("qhub-prod-none"), 10)


async def test_logs_of_what_is_ended(open_target: Open, kubernetes: Any) -> None:
    """What is ended although it runs has its log kept before, once; no silence holds that up."""
    target = await open_target()
    workers = await workers_of(target, 30)
    refs = await target.start_workers(spec_of(), workers)
    kubernetes.logs = {ref.name: f"log of {ref.name}" for ref in refs}
    kubernetes.grace = True
    await target.keep_logs(refs)
    assert kubernetes.asked["GET", "log"] == 20
    await target.keep_logs(refs[:20])
    await target.stop(refs)
    await target.keep_logs(refs)
    assert kubernetes.asked["GET", "log"] == 20
    for ref in refs:
        kubernetes.gone(ref.name)
    kubernetes.logs.clear()
    await until(lambda: target.state(refs[-1]).phase is Phase.ENDED)
    assert await target.read_log(spec_of(), "w0", refs[0], 1000) == f"log of {refs[0].name}"
    with pytest.raises(LogElsewhereError, match="its pod has been deleted"):
        await target.read_log(spec_of(), "w29", refs[-1], 1000)


async def test_a_log_that_does_not_come(
    open_target: Open, kubernetes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not answer, and one that says no, hold up no end."""
    monkeypatch.setattr(kubernetes_logs, "_KEEPING_SECONDS", 0.05)
    target = await open_target()
    refs = await target.start_workers(spec_of(), await workers_of(target, 2))
    await target.keep_logs(refs)

    async def never(*asked: object) -> str:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    monkeypatch.setattr(kubernetes, "text", never)
    await target.keep_logs(refs)
    assert target.logs.kept == {}


async def test_where_a_scheduler_is(open_target: Open, kubernetes: Any) -> None:
    """A scheduler is at the addresses of its pod, however they are written, and nowhere else."""
    target = await open_target()
    spec = spec_of()
    ref = await target.start_scheduler(spec, target.plan_scheduler(spec))
    with pytest.raises(TargetSilentError, match="does not say now"):
        await target.check_host(ref, "10.0.0.9")
    kubernetes.run(ref.name)
    kubernetes.pods()[ref.name]["status"]["podIPs"] = [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]
    for host in ("10.0.0.9", "fd00::9", "fd00:0::9"):
        await target.check_host(ref, host)
    for host in ("10.0.0.8", "127.0.0.1", "::ffff:10.0.0.9", "node", ""):
        with pytest.raises(HostRefusedError, match=r"accepted: 10[.]0[.]0[.]9, fd00::9"):
            await target.check_host(ref, host)

    def silent(*_: str) -> None:
        raise SILENCE

    kubernetes.before = silent
    with pytest.raises(TargetSilentError):
        await target.check_host(ref, "10.0.0.9")


async def test_spot_without_a_pool_is_refused(open_target: Open) -> None:
    """Nothing is started on nodes of any other kind."""
    target = await open_target()
    spec = spec_of(kubernetes={"spot": True})
    with pytest.raises(StartRefusedError, match="spot_pool"):
        await target.start_scheduler(spec, target.plan_scheduler(spec))


@pytest.mark.usefixtures("kubernetes")
async def test_one_namespace_for_all() -> None:
    """A gateway does not begin where everybody has a namespace."""
    config = Config()
    config.KubeSpawner.enable_user_namespaces = True
    parent = LoggingConfigurable(config=config)
    with pytest.raises(ConfigurationError, match="one namespace for all"):
        await KubernetesTarget(parent=parent, gateway_id="prod").open()


def test_plans() -> None:
    """Names of pods are labels' values and pods' names, each once."""
    names = {manifest.numbered("prod", f"{number:016x}") for number in range(3)}
    assert all(re.fullmatch(r"qhub-prod-[0-9a-f]{16}", name) for name in names)
