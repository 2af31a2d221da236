"""The contract of doors: one body, on the real Slurm by both transports, and on the fake."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qhub_spawner.errors import (
    SlurmError,
    SlurmRejectedError,
    SlurmUnavailableError,
    SubmitUnknownError,
)
from qhub_spawner.quantities import Duration
from qhub_spawner.slurm.door import Cancellation
from qhub_spawner.slurm.jobs import Job, JobState, write_tasks
from qhub_spawner.slurm.restd import RestDoor
from qhub_spawner.slurm.script import Submission
from tests.contract import doors
from tests.contract.doors import Cluster

SLEEP = 'echo started >>"$OUT"; sleep 300'
# like the batch script of a server: the shell passes the signal on, and takes its child's status
PASSES_TERM_ON = """
(
  trap 'echo child got TERM >>"$OUT"; exit 7' TERM
  echo ready >>"$OUT"
  while :; do sleep 300 & wait; done  # again, as the sleep may get TERM first
) &
child=$!
trap 'echo shell got TERM >>"$OUT"; kill -TERM "$child"' TERM
wait "$child"; first=$?; wait "$child"; second=$?
case $second in 127 | -1) exit "$first" ;; esac; exit "$second"
"""


async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Open the door that is asked for; afterwards no job is left."""
    if request.param == "fake":
        made = doors.fake_cluster()
    else:
        made = doors.real_cluster(request.getfixturevalue("slurm"), request.param)
    yield made
    if made.real:
        slurm = request.getfixturevalue("slurm")
        slurm.run(["scancel", "--user=alice"])
        slurm.run(["scancel", "--user=bob"])
    await doors.close(made)


cluster = pytest.fixture(opened, params=["fake", "command-line", "rest"], name="cluster")
real = pytest.fixture(opened, params=["command-line", "rest"], name="real")


class TestQuestions:
    """What the hub asks for itself."""

    async def test_queue(self, cluster: Cluster) -> None:
        """A job stands there with everything the hub needs of it."""
        before = datetime.now(UTC) - timedelta(seconds=2)
        submission = cluster.submission(SLEEP)
        job_id = await cluster.door.submit("alice", submission)
        queue = await cluster.door.queue()
        job = queue.by_name[submission.name]
        assert (job.job_id, job.user, job.partition) == (job_id, "alice", "general")
        assert queue.taken >= before
        job = await cluster.running(job_id)
        assert (job.nodes, job.cpus, job.walltime_seconds) == (1, 1, 600)
        assert job.node_list == job.batch_host
        assert job.node_list in {"cn01", "cn02"}
        assert job.submitted is not None
        assert job.submitted >= before
        assert job.start is not None
        assert job.end is not None
        assert (job.end - job.start).total_seconds() == 600

    async def test_machines(self, cluster: Cluster) -> None:
        """Every node of every partition, its GPUs and the partition's limits."""
        machines = await cluster.door.machines()
        assert machines.default_partition == "general"
        nodes = {node.name: node for node in machines.nodes}
        assert {name: node.partition for name, node in nodes.items()} == {
            "cn01": "general",
            "cn02": "general",
            "hm01": "highmem",
            "gpu01": "gpu",
        }
        assert nodes["gpu01"].gpus == {"a100": 2}
        assert nodes["gpu01"].partition_walltime_seconds == 2 * 3600
        assert nodes["cn01"].address == "127.0.0.1"
        assert nodes["cn01"].memory_mebibytes == 4000
        assert nodes["cn01"].features == {"general"}
        assert nodes["cn01"].up

    async def test_limits(self, cluster: Cluster) -> None:
        """What accounting records of people."""
        limits = await cluster.door.limits()
        assert limits["alice"].accounts == {"research", "physics"}
        assert limits["alice"].qos == {"normal", "gpu", "short", "single"}
        assert limits["bob"].max_walltime == Duration(2 * 3600)
        assert "nobody" not in limits

    async def test_endings(self, cluster: Cluster) -> None:
        """How jobs ended; those that run are not over, and those that never were are missing."""
        scripts = {"failed": "exit 3", "killed": "kill -9 $$", "done": "true", "runs": SLEEP}
        ids = {
            kind: await cluster.door.submit("alice", cluster.submission(script))
            for kind, script in scripts.items()
        }
        for kind in ("failed", "killed", "done"):
            await cluster.ended(ids[kind])
        await cluster.running(ids["runs"])

        async def all_known() -> Any:
            found = await cluster.door.endings([*ids.values(), 4_294_000_000])
            return found if ids["runs"] in found else None

        endings = await doors.until(all_known, "accounting's knowledge of the running job")
        assert set(endings) == set(ids.values())
        failed = endings[ids["failed"]]
        assert (failed.state, failed.exit_status) == (JobState.FAILED, 3)
        assert endings[ids["killed"]].exit_signal == 9
        assert endings[ids["done"]].state is JobState.COMPLETED
        assert endings[ids["done"]].ended is not None
        assert not endings[ids["runs"]].state.over

    async def test_gone(self, cluster: Cluster) -> None:
        """Only a job that the controller does not know is gone."""
        submission = cluster.submission(SLEEP)
        job_id = await cluster.door.submit("alice", submission)
        assert not await cluster.door.gone(Job(job_id, JobState.UNKNOWN, submission.name, "alice"))
        assert await cluster.door.gone(Job(job_id, JobState.UNKNOWN, "qhub-x-other", "alice"))
        unknown = Job(4_294_000_000, JobState.UNKNOWN, submission.name, "alice")
        assert await cluster.door.gone(unknown)

    async def test_estimate(self, cluster: Cluster) -> None:
        """Slurm's own estimate, where the transport can ask; nothing is submitted."""
        submission = cluster.submission(SLEEP)
        found = await cluster.door.estimate("alice", submission)
        if found is not None:
            assert abs(found - datetime.now(UTC)) < timedelta(hours=2)
            with pytest.raises(SlurmRejectedError):
                await cluster.door.estimate("alice", cluster.submission(SLEEP, {"account": "nope"}))
        assert submission.name not in (await cluster.door.queue()).by_name


class TestSubmit:
    """A job, as the person."""

    async def test_environment(self, cluster: Cluster) -> None:
        """Every value arrives as it is, whatever it holds; the hub's own environment does not."""
        values = {
            "PLAIN": "value",
            "LINES": "one\ntwo\n\nfour",
            "QUOTES": "'\"`$(id)${HOME}\\\\;|&",
            "UNICODE": "größe ✓",
            "SPACES": "  a  ",
            "EMPTY": "",
            "EQUALS": "a=b=c",
            "LONG": "x" * 10_000,
        }
        script = 'env -0 >"$OUT".part && mv "$OUT".part "$OUT"'
        submission = cluster.submission(script, environment=values)
        await cluster.door.submit("alice", submission)
        text = await cluster.written(submission, "PLAIN=")
        found = dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)
        assert {name: found.get(name) for name in values} == values
        assert "PYTEST_CURRENT_TEST" not in found
        assert found["SLURM_JOB_ID"].isdigit()

    async def test_many_at_once(self, cluster: Cluster) -> None:
        """Each gets its own."""
        made = [cluster.submission("true") for _ in range(10)]
        ids = await asyncio.gather(*(cluster.door.submit("alice", each) for each in made))
        assert len(set(ids)) == 10

    async def test_a_script_of_some_size(self, cluster: Cluster) -> None:
        """A quarter of a megabyte of prologue."""
        script = f": '{'x' * 1000}'\n" * 250 + 'echo end >"$OUT"'
        submission = cluster.submission(script)
        await cluster.door.submit("alice", submission)
        assert await cluster.written(submission, "end")

    @pytest.mark.parametrize("option", ["account", "partition", "qos"])
    async def test_refused(self, cluster: Cluster, option: str) -> None:
        """Slurm's no comes with Slurm's words, and there is no job."""
        submission = cluster.submission(SLEEP, {option: "nope"})
        with pytest.raises(SlurmRejectedError) as refused:
            await cluster.door.submit("alice", submission)
        assert "Invalid" in refused.value.words
        assert option in refused.value.words
        assert submission.name not in (await cluster.door.queue()).by_name


class TestCancel:
    """The right job, and no other."""

    async def started(self, cluster: Cluster, script: str = SLEEP) -> tuple[int, Submission]:
        """Return a job whose script runs."""
        submission = cluster.submission(script)
        job_id = await cluster.door.submit("alice", submission)
        await cluster.written(submission, "ready" if "ready" in script else "started")
        return job_id, submission

    async def test_cancel(self, cluster: Cluster) -> None:
        """It is over, and accounting says by whom; once more changes nothing."""
        job_id, submission = await self.started(cluster)
        await cluster.door.cancel("alice", job_id, submission.name)
        ending = await cluster.ended(job_id)
        assert ending.state is JobState.CANCELLED
        assert ending.cancelled_by is not None
        await cluster.door.cancel("alice", job_id, submission.name)
        await cluster.door.cancel("alice", job_id, submission.name, signal="TERM")

    async def test_another_name(self, cluster: Cluster) -> None:
        """An id that belongs to another job by now is left alone."""
        job_id, _ = await self.started(cluster)
        other = cluster.submission(SLEEP).name
        await cluster.door.cancel("alice", job_id, other)
        await cluster.door.cancel("alice", job_id, other, signal="TERM")
        await asyncio.sleep(1)
        job = await cluster.job(job_id)
        assert job is not None
        assert job.state is JobState.RUNNING

    async def test_a_job_that_never_was(self, cluster: Cluster) -> None:
        """Nothing to do."""
        await cluster.door.cancel("alice", 4_294_000_000, cluster.submission(SLEEP).name)

    async def test_somebody_elses(self, cluster: Cluster) -> None:
        """Nobody cancels for somebody else, and it is no success."""
        job_id, submission = await self.started(cluster)
        with pytest.raises(SlurmError):
            await cluster.door.cancel("bob", job_id, submission.name)
        job = await cluster.job(job_id)
        assert job is not None
        assert job.state is JobState.RUNNING

    async def test_term(self, cluster: Cluster) -> None:
        """SIGTERM reaches the batch script, which ends its child, and the job is over."""
        job_id, submission = await self.started(cluster, PASSES_TERM_ON)
        await cluster.door.cancel("alice", job_id, submission.name, signal="TERM")
        text = await cluster.written(submission, "child got TERM")
        assert "shell got TERM" in text
        ending = await cluster.ended(job_id)
        assert ending.state is JobState.FAILED
        # where all get it at once, bash may lose the status of a child that ends meanwhile
        assert ending.exit_status

    async def test_cancel_ends_every_process(self, cluster: Cluster) -> None:
        """Children of the script too, though they ignore SIGTERM."""
        script = """
        (trap '' TERM; while :; do date +%s%N >"$OUT".beat; sleep 0.1; done) &
        echo started >>"$OUT"; trap '' TERM; wait
        """
        job_id, submission = await self.started(cluster, script)
        beat = cluster.folder / f"{submission.environment['OUT']}.beat"

        async def beats() -> bool:
            return beat.exists()

        await doors.until(beats, "a sign of life of the child")
        await cluster.door.cancel("alice", job_id, submission.name)
        await cluster.ended(job_id)

        async def still() -> bool:
            first = beat.read_text()
            await asyncio.sleep(0.5)
            return first == beat.read_text()

        await doors.until(still, "the end of the child")


async def lines_of(cluster: Cluster, array_id: int) -> dict[str, str]:
    """Return the state of each line that the queue has of an array, by its tasks."""
    queue = await cluster.door.queue()
    return {
        write_tasks([task for each in job.tasks for task in each]): job.state.value
        for job in queue.jobs
        if job.job_id == array_id
    }


class TestArrays:
    """Many workers as one job."""

    # two nodes of two CPUs: four tasks run, the others wait
    async def started(self, real: Cluster, size: int = 8) -> tuple[int, Submission]:
        """Return an array of which four tasks run."""
        submission = replace(real.submission('echo "$SLURM_ARRAY_TASK_ID" >>"$OUT"; sleep 300'))
        submission = replace(submission, array_size=size)
        array_id = await real.door.submit("alice", submission)

        async def look() -> bool:
            states = await lines_of(real, array_id)
            return [states.get(str(task)) for task in range(4)] == ["RUNNING"] * 4

        await doors.until(look, f"four tasks of {array_id}")
        return array_id, submission

    async def test_one_submission(self, real: Cluster) -> None:
        """Tasks that run have a line each, those that wait share one; each can be found."""
        array_id, submission = await self.started(real)
        assert (await lines_of(real, array_id))["4-7"] == "PENDING"
        queue = await real.door.queue()
        states = []
        for task in range(8):
            job = queue.task_of(array_id, submission.name, task)
            assert job is not None
            assert (job.job_id, job.user) == (array_id, "alice")
            states.append(job.state)
        assert states == [JobState.RUNNING] * 4 + [JobState.PENDING] * 4
        assert queue.task_of(array_id, submission.name, 8) is None
        assert queue.task_of(array_id, "qhub-x-other", 1) is None
        by_name = queue.job_of(submission.name, "alice")
        assert by_name is not None
        assert by_name.job_id == array_id
        own = await real.door.array(array_id)
        assert {job.tasks for job in own} == {
            job.tasks for job in queue.jobs if job.job_id == array_id
        }

    async def test_some_tasks(self, real: Cluster) -> None:
        """Just those that are named, running or waiting, and no other."""
        array_id, submission = await self.started(real)
        asked = [Cancellation(array_id, submission.name, (1, 3, 5))]
        await real.door.cancel_many("alice", asked)
        await real.door.cancel_many("alice", asked)

        async def look() -> bool:
            lines = await lines_of(real, array_id)
            # their places are taken by the next that wait
            running = {task for task, state in lines.items() if state == "RUNNING"}
            return running == {"0", "2", "4", "6"} and lines.get("7") == "PENDING"

        await doors.until(look, "tasks 4 and 6 in the place of 1 and 3")

        async def over() -> bool:
            found = (await real.door.task_endings([array_id])).get(array_id, {})
            return all(task in found and found[task].state is JobState.CANCELLED for task in (1, 3))

        await doors.until(over, "accounting's knowledge of what ran")
        endings = (await real.door.task_endings([array_id]))[array_id]
        assert not endings[0].state.over
        queue = await real.door.queue()
        # one that waited leaves no trace
        assert queue.task_of(array_id, submission.name, 5) is None

    async def test_whole(self, real: Cluster) -> None:
        """Those that wait too, whatever their number, together with other jobs."""
        array_id, submission = await self.started(real)
        single = real.submission(SLEEP)
        job_id = await real.door.submit("alice", single)
        await real.door.cancel_many(
            "alice",
            [Cancellation(array_id, submission.name), Cancellation(job_id, single.name)],
        )

        async def look() -> bool:
            queue = await real.door.queue()
            tasks = [queue.task_of(array_id, submission.name, task) for task in range(8)]
            job = queue.job_of(single.name, "alice", job_id)
            return all(each is None or each.state.over for each in (*tasks, job))

        await doors.until(look, "the end of all")

        async def known() -> bool:
            found = (await real.door.task_endings([array_id])).get(array_id, {})
            return {task for task in found if found[task].state.over} == set(range(8))

        await doors.until(known, "accounting's knowledge of all tasks")

    async def test_left_alone(self, real: Cluster) -> None:
        """Another name, somebody else's, and what never was."""
        array_id, submission = await self.started(real, 4)
        other = real.submission(SLEEP).name
        await real.door.cancel_many("alice", [Cancellation(array_id, other)])
        await real.door.cancel_many("alice", [Cancellation(array_id, other, (1,))])
        await real.door.cancel_many("alice", [Cancellation(4_294_000_000, other, (1,))])
        with suppress(SlurmError):
            await real.door.cancel_many("bob", [Cancellation(array_id, submission.name)])
        await asyncio.sleep(1)
        assert set((await lines_of(real, array_id)).values()) == {"RUNNING"}
        assert await real.door.array(4_294_000_000) == ()

    async def test_silence(self, real: Cluster) -> None:
        """No answer is no success."""
        name = real.submission(SLEEP).name
        for question in (
            real.nowhere.cancel_many("alice", [Cancellation(1, name, (1, 2))]),
            real.nowhere.task_endings([1]),
            real.nowhere.array(1),
        ):
            with pytest.raises(SlurmUnavailableError):
                await question


class TestSilence:
    """What is not heard is unknown: never a refusal, never "no such job"."""

    async def test_nowhere(self, cluster: Cluster) -> None:
        """Nothing is there at all."""
        submission = cluster.submission(SLEEP)
        job = Job(1, JobState.UNKNOWN, submission.name, "alice")
        questions = {
            "queue": cluster.nowhere.queue(),
            "machines": cluster.nowhere.machines(),
            "endings": cluster.nowhere.endings([1]),
            "limits": cluster.nowhere.limits(),
            "cancel": cluster.nowhere.cancel("alice", 1, submission.name),
        }
        answers = await asyncio.gather(*questions.values(), return_exceptions=True)
        for name, answer in zip(questions, answers, strict=True):
            assert isinstance(answer, SlurmUnavailableError), (name, answer)
        with pytest.raises((SubmitUnknownError, SlurmUnavailableError)):
            await cluster.nowhere.submit("alice", submission)
        with suppress(SlurmUnavailableError):
            assert not await cluster.nowhere.gone(job)

    async def test_the_controller_is_down(self, cluster: Cluster) -> None:
        """And up again: the job has not noticed. What was submitted meanwhile may have arrived."""
        submission = cluster.submission(SLEEP)
        job_id = await cluster.door.submit("alice", submission)
        await cluster.written(submission, "started")
        cluster.silence(True)
        try:
            another = cluster.submission(SLEEP)
            answers = await asyncio.gather(
                cluster.door.queue(),
                cluster.door.cancel("alice", job_id, submission.name),
                cluster.door.submit("alice", another),
                return_exceptions=True,
            )
        finally:
            cluster.silence(False)
        assert isinstance(answers[0], SlurmUnavailableError)
        assert isinstance(answers[1], SlurmUnavailableError)
        assert isinstance(answers[2], SubmitUnknownError)
        job = await cluster.running(job_id)
        assert job.name == submission.name


def shown(slurm: Any, job_id: int) -> dict[str, str]:
    """Return what scontrol says of a job."""
    words = slurm.run(["scontrol", "--oneliner", "show", "job", str(job_id)]).stdout.split()
    return dict(word.partition("=")[::2] for word in words)


class TestOptions:
    """What is asked for is what the job has, by either transport."""

    @pytest.mark.parametrize(
        ("options", "has"),
        [
            ({"nodes": "2"}, {"NumNodes": "2", "NumTasks": "2"}),
            ({"nodes": "1"}, {"NumNodes": "1"}),
            ({"cpus-per-task": "2"}, {"CPUs/Task": "2", "NumCPUs": "2"}),
            ({"mem": "1500M"}, {"MinMemoryNode": "1500M"}),
            ({"time": "1:30:00"}, {"TimeLimit": "01:30:00"}),
            ({"time": "0:00:30"}, {"TimeLimit": "00:01:00"}),
            ({"exclusive": None}, {"OverSubscribe": "NO"}),
            ({"constraint": "general"}, {"Features": "general"}),
            ({"account": "physics"}, {"Account": "physics"}),
            ({"qos": "short"}, {"QOS": "short"}),
            (
                {"partition": "gpu", "qos": "gpu", "gres": "gpu:a100:2"},
                {"Partition": "gpu", "TresPerNode": "gres:gpu:a100:2"},
            ),
            ({"partition": "highmem"}, {"Partition": "highmem"}),
            ({"nice": "10"}, {"Nice": "10"}),
            ({"nodelist": "cn02"}, {"ReqNodeList": "cn02"}),
            ({"requeue": None}, {"Requeue": "1"}),
            ({"no-requeue": None}, {"Requeue": "0"}),
            ({"begin": "now+1hour"}, {"Reason": "BeginTime"}),
        ],
    )
    async def test_option(
        self, real: Cluster, slurm: Any, options: dict[str, str | None], has: dict[str, str]
    ) -> None:
        """One option at a time; the name and the comment with each."""
        submission = real.submission(SLEEP, options)
        job = shown(slurm, await real.door.submit("alice", submission))
        # scontrol writes the number of nodes as a range until the job has them
        job["NumNodes"] = job["NumNodes"].partition("-")[0]
        assert {key: job[key] for key in has} == has
        assert job["JobName"] == submission.name
        assert job["Comment"] == submission.comment
        assert job["StdOut"] == job["StdErr"] == "/dev/null"
        assert job["UserId"].startswith("alice(")


class TestRealSlurm:
    """What a fake cannot show."""

    async def test_as_the_person(self, real: Cluster) -> None:
        """It runs as the person, with their groups, and no rights of ours."""
        submission = real.submission('{ id -un; id -Gn; sudo -n id -un; echo end; } >"$OUT" 2>&1')
        await real.door.submit("bob", submission)
        name, groups, *_ = (await real.written(submission, "end")).splitlines()
        assert name == groups == "bob"
        assert "root" not in real.output(submission).split()

    async def test_an_account_that_is_not_there(self, real: Cluster) -> None:
        """Neither sudo nor Slurm can run something as nobody knows whom."""
        submission = real.submission(SLEEP)
        with pytest.raises(SlurmError):
            await real.door.submit("nosuchperson", submission)
        assert submission.name not in (await real.door.queue()).by_name

    @pytest.mark.parametrize("account", ["root", "slurm", "munge", "qhub", "daemon", "nobody"])
    async def test_never_as_a_service(self, real: Cluster, account: str) -> None:
        """A user of the hub may be called like one: that makes nobody root."""
        submission = real.submission(SLEEP)
        with pytest.raises(SlurmError):
            await real.door.submit(account, submission)
        assert submission.name not in (await real.door.queue()).by_name

    async def test_an_imitated_name(self, real: Cluster) -> None:
        """Somebody's job of the same name is not taken for the person's."""
        submission = real.submission(SLEEP)
        mine = await real.door.submit("alice", submission)
        imitation = real.submission(SLEEP)
        theirs = await real.door.submit(
            "bob",
            Submission(
                submission.name, "", imitation.options, imitation.script, imitation.environment
            ),
        )
        queue = await real.door.queue()
        for user, job_id in (("alice", mine), ("bob", theirs)):
            found = queue.job_of(submission.name, user, job_id)
            assert found is not None
            assert (found.job_id, found.user) == (job_id, user)
            unknown = queue.job_of(submission.name, user)
            assert unknown is not None
            assert unknown.user == user


class TestLogs:
    """What a part of a Dask cluster has written to the home of its person."""

    async def test_read(self, real: Cluster) -> None:
        """By the one that acts as the person; the other says that it reads no files."""
        name, worker = secrets.token_hex(16), secrets.token_hex(16)
        submission = real.submission(
            f'd=~/.local/state/qhub/dask/{name}; mkdir -p "$d"; printf "one two" >"$d/{worker}.log"\n'
            'echo written >>"$OUT"'
        )
        await real.door.submit("alice", submission)
        await real.written(submission, "written")
        if isinstance(real.door, RestDoor):
            with pytest.raises(SlurmRejectedError, match="reads no files"):
                await real.door.read_log("alice", name, worker, 10)
            return
        assert await real.door.read_log("alice", name, worker, 3) == "two"
        assert await real.door.read_log("alice", name, "scheduler", 3) is None
        assert await real.door.read_log("bob", name, worker, 3) is None
        with pytest.raises(SlurmRejectedError, match="refused"):
            await real.door.read_log("alice", f"../{name}", worker, 3)
