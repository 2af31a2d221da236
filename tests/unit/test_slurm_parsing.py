"""What Slurm prints, read; and what only looks as if Slurm had printed it, refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.quantities import Duration
from qhub_spawner.slurm import parsing
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobState
from qhub_spawner.slurm.parsing import (
    default_partition,
    limits_of,
    parse_accounting,
    parse_associations,
    parse_estimate,
    parse_json,
    parse_nodes,
    parse_queue,
    parse_submitted,
    queue_format,
    walltime_seconds,
)
from tests.unit import recorded

IDS = recorded.jobs()
HEADINGS = recorded.text("queue.txt").splitlines(keepends=True)[0]


def recorded_queue() -> dict[int, Job]:
    """Return the recorded jobs by id."""
    return {job.job_id: job for job in parse_queue(recorded.text("queue.txt"), recorded.MARK)}


def line(job_id: int, name: str, mark: str = recorded.MARK) -> str:
    """Return a line of squeue with that name."""
    fields = "RUNNING|None|alice|general|1|1|1|N/A|1795241405|1795241408|1795243208|30:00|cn01|cn01"
    return f"{mark}|{job_id}|{fields}|{name}|{mark}\n"


class TestQueue:
    """squeue."""

    def test_recorded_states(self) -> None:
        """Every kind of job of the recording has its state."""
        queue = recorded_queue()
        states = {kind: queue[job_id].state for kind, job_id in IDS.items()}
        assert states == {
            "running": JobState.RUNNING,
            "gpu": JobState.RUNNING,
            "suspended": JobState.SUSPENDED,
            "held": JobState.PENDING,
            "array": JobState.PENDING,
            "forged": JobState.PENDING,
            "completed": JobState.COMPLETED,
            "failed": JobState.FAILED,
            "killed": JobState.FAILED,
            "memory": JobState.OUT_OF_MEMORY,
            "timeout": JobState.TIMEOUT,
            "node": JobState.NODE_FAIL,
            "requeued": JobState.RUNNING,
            "cancelled": JobState.CANCELLED,
            "wide": JobState.PENDING,
            "behind": JobState.PENDING,
        }

    def test_recorded_running_job(self) -> None:
        """All fields of one job, with times in UTC."""
        job = recorded_queue()[IDS["running"]]
        assert (job.name, job.user, job.partition) == (
            "qhub-a1-0000000000000001",
            "alice",
            "general",
        )
        assert (job.nodes, job.cpus, job.walltime_seconds) == (1, 1, 1800)
        assert job.node_list == job.batch_host == "cn01"
        assert job.start is not None
        assert job.end is not None
        assert (job.end - job.start).total_seconds() == 1800
        assert job.start.tzinfo is UTC
        assert job.reason == ""

    def test_recorded_gpu_job(self) -> None:
        """GRES is what the job asked for."""
        assert recorded_queue()[IDS["gpu"]].gres == "gres:gpu:a100:1"

    def test_recorded_waiting_jobs(self) -> None:
        """A waiting job has a reason and no node."""
        queue = recorded_queue()
        assert queue[IDS["wide"]].reason == "Resources"
        assert queue[IDS["behind"]].reason == "Priority"
        assert queue[IDS["held"]].reason == "JobHeldUser"
        assert queue[IDS["wide"]].node_list == ""
        assert queue[IDS["wide"]].nodes == 2
        assert queue[IDS["held"]].start is None

    def test_recorded_forged_line_is_part_of_a_name(self) -> None:
        """A job's name that imitates a line of squeue stays a name."""
        queue = recorded_queue()
        assert queue[IDS["forged"]].name.startswith("x\nfedcba9876543210|4711|CANCELLED|")
        assert 4711 not in queue
        assert set(queue) == set(IDS.values())

    def test_headings_alone_are_an_empty_queue(self) -> None:
        """Slurm prints its headings even when there is no job."""
        assert parse_queue(HEADINGS, recorded.MARK) == []

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\n\n",
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
            "CLUSTER: alpha\n",
            line(1, "qhub-a1-0000000000000001"),
            HEADINGS + "garbage\n",
            HEADINGS + "\0\0\0\n",
            HEADINGS + line(1, "x").replace("RUNNING|", ""),
            HEADINGS + line(1, "x").replace("|1|RUNNING", "|one|RUNNING"),
            HEADINGS + line(1, "x").replace("1795241405", "yesterday"),
            HEADINGS + line(1, "x").replace("30:00", "half an hour"),
            HEADINGS + line(1, "x", mark="fedcba9876543210"),
            HEADINGS + line(1, "x") + "trailing",
        ],
    )
    def test_garbled(self, text: str) -> None:
        """Nothing, an error, half a line or garbage is no answer: nothing follows from it."""
        with pytest.raises(GarbledAnswerError):
            parse_queue(text, recorded.MARK)

    def test_cluster(self) -> None:
        """With --clusters there is one more line of headings, and jobs know their cluster."""
        jobs = parse_queue(
            "CLUSTER: alpha\n" + HEADINGS + line(1, "x"), recorded.MARK, cluster="alpha"
        )
        assert jobs[0].cluster == "alpha"

    def test_format_names_as_many_fields_as_are_read(self) -> None:
        """What is asked for and what is read are one list, between two marks."""
        asked = queue_format("MARK").split("|")
        assert asked[0] == asked[-1] == "MARK"
        assert len(asked) - 2 == HEADINGS.count("|") - 1

    @given(cut=st.integers(0, len(recorded.text("queue.txt")) - 1))
    def test_a_cut_answer_invents_nothing(self, cut: int) -> None:
        """A cut answer is garbled, or holds whole jobs as Slurm printed them, in their order."""
        whole = parse_queue(recorded.text("queue.txt"), recorded.MARK)
        try:
            jobs = parse_queue(recorded.text("queue.txt")[:cut], recorded.MARK)
        except GarbledAnswerError:
            return
        assert jobs == whole[: len(jobs)]
        if len(jobs) < len(whole):
            # cut exactly between two jobs: the poller asks accounting before it believes that
            assert recorded.text("queue.txt")[:cut].rstrip("\n").endswith("|" + recorded.MARK)

    @given(
        names=st.lists(
            st.text()
            | st.sampled_from(
                [
                    "a\n" + line(4711, "qhub-a1-0000000000000001", mark="fedcba9876543210"),
                    "a\n|4711|RUNNING\n",
                    "x|y|z",
                    "\n" * 5,
                    "CLUSTER: x",
                    "a\nCLUSTER: x\nb",
                    HEADINGS.replace(recorded.MARK, "guess"),
                ]
            ),
            max_size=6,
        )
    )
    def test_names_are_only_names(self, names: list[str]) -> None:
        """Whatever people call their jobs, the jobs read are those that Slurm printed."""
        names = [name.replace(recorded.MARK, "").replace("\0", "") for name in names]
        text = HEADINGS + "".join(line(number, name) for number, name in enumerate(names, 1))
        jobs = parse_queue(text, recorded.MARK)
        assert [(job.job_id, job.name) for job in jobs] == list(enumerate(names, 1))

    @given(st.text(alphabet=f"{recorded.MARK}|\n:-+NA", max_size=200))
    def test_any_text(self, text: str) -> None:
        """Every text is either read or refused with our own error."""
        with suppress(GarbledAnswerError):
            parse_queue(HEADINGS + text, recorded.MARK)


class TestAccounting:
    """sacct."""

    def test_recorded(self) -> None:
        """Accounting's word on every kind of end."""
        endings = parse_accounting(recorded.text("endings.txt"))
        ended = {kind: endings[IDS[kind]] for kind in IDS if IDS[kind] in endings}
        assert ended["completed"].state is JobState.COMPLETED
        assert (ended["failed"].state, ended["failed"].exit_status) == (JobState.FAILED, 3)
        assert (ended["killed"].state, ended["killed"].exit_signal) == (JobState.FAILED, 9)
        assert ended["memory"].state is JobState.OUT_OF_MEMORY
        assert ended["timeout"].state is JobState.TIMEOUT
        assert ended["node"].state is JobState.NODE_FAIL
        assert ended["node"].node_list == "hm01"
        assert ended["cancelled"].state is JobState.CANCELLED
        assert ended["cancelled"].cancelled_by is not None

    def test_recorded_jobs_that_go_on_are_not_over(self) -> None:
        """A job that runs, waits or was requeued is in the answer and has not ended."""
        endings = parse_accounting(recorded.text("endings.txt"))
        for kind in ("running", "gpu", "suspended", "requeued"):
            assert not endings[IDS[kind]].state.over, kind
            assert endings[IDS[kind]].ended is None, kind

    def test_a_requeued_job_counts_by_its_newest_line(self) -> None:
        """--duplicates prints a requeued job once for each run, the newest last."""
        text = recorded.text("endings.txt")
        lines = [each for each in text.splitlines() if each.startswith(f"{IDS['requeued']}|")]
        assert "REQUEUED" in lines[0]
        assert "RUNNING" in lines[-1]
        assert parse_accounting("\n".join(lines))[IDS["requeued"]].state is JobState.RUNNING

    @pytest.mark.parametrize(
        "text", ["x", "1|COMPLETED|0:0|1", "1|RUNNING|a:b|Unknown|cn01", "|||||"]
    )
    def test_garbled(self, text: str) -> None:
        """Half a line is no answer."""
        with pytest.raises(GarbledAnswerError):
            parse_accounting(text)

    @given(cut=st.integers(0, len(recorded.text("endings.txt"))))
    def test_a_cut_answer_ends_nobody_who_lives(self, cut: int) -> None:
        """A cut answer never makes a job over that is not."""
        whole = parse_accounting(recorded.text("endings.txt"))
        alive = {job_id for job_id, ending in whole.items() if not ending.state.over}
        try:
            found = parse_accounting(recorded.text("endings.txt")[:cut])
        except GarbledAnswerError:
            return
        assert not [
            job_id for job_id, ending in found.items() if ending.state.over and job_id in alive
        ]

    def test_no_answer_is_an_empty_one(self) -> None:
        """sacct prints nothing for ids it does not know."""
        assert parse_accounting("") == {}


class TestNodes:
    """sinfo."""

    def test_recorded(self) -> None:
        """Nodes with partition, load, memory, GPUs and the partition's longest walltime."""
        nodes = {node.name: node for node in parse_nodes(recorded.text("machines.txt"))}
        assert set(nodes) == {"cn01", "cn02", "hm01", "gpu01"}
        gpu = nodes["gpu01"]
        assert (gpu.partition, gpu.address, gpu.state) == ("gpu", "127.0.0.1", "mixed")
        assert (gpu.gpus, gpu.gpus_used) == ({"a100": 2}, {"a100": 1})
        assert (gpu.cpus_total, gpu.cpus_allocated, gpu.cpus_idle) == (2, 1, 1)
        assert (gpu.memory_mebibytes, gpu.memory_allocated_mebibytes) == (8000, 100)
        assert gpu.partition_walltime_seconds == 2 * 3600
        assert gpu.partition_up
        assert gpu.features == {"gpu"}
        assert not nodes["hm01"].up

    def test_recorded_default_partition(self) -> None:
        """sinfo marks it with a star, which is no part of its name."""
        assert default_partition(recorded.text("machines.txt")) == "general"
        assert {node.partition for node in parse_nodes(recorded.text("machines.txt"))} == {
            "general",
            "gpu",
            "highmem",
        }
        assert default_partition("") is None

    @pytest.mark.parametrize(
        "text",
        ["x|", "garbage", "cn01|127.0.0.1|general|idle|0/2/0|4000|0|(null)|gpu:0|g|8:00:00|up|"],
    )
    def test_garbled(self, text: str) -> None:
        """Half a line is no answer."""
        with pytest.raises(GarbledAnswerError):
            parse_nodes(text)


class TestLimits:
    """sacctmgr."""

    def test_recorded(self) -> None:
        """A user's accounts, QOS and longest walltime; accounts themselves are nobody."""
        limits = limits_of(parse_associations(recorded.text("limits.txt")))
        assert set(limits) == {"root", "alice", "bob"}
        assert limits["alice"].accounts == {"research", "physics"}
        assert limits["alice"].qos == {"normal", "gpu", "short", "single"}
        assert limits["alice"].max_walltime is None
        assert limits["bob"].accounts == {"teaching"}
        assert limits["bob"].max_walltime == Duration(2 * 3600)

    def test_the_most_generous_association_counts(self) -> None:
        """A walltime limit holds only if every association of the user has one."""
        rows = "a|x||01:00:00|n|n\na|y||1-00:00:00|n|n\nb|x||01:00:00|n|n\nb|y|||n|n\n"
        limits = limits_of(parse_associations(rows))
        assert limits["a"].max_walltime == Duration(24 * 3600)
        assert limits["b"].max_walltime is None

    @pytest.mark.parametrize("text", ["alice", "alice|x||soon|n|n", "alice|x||1:00|n|n|more"])
    def test_garbled(self, text: str) -> None:
        """Half a line is no answer."""
        with pytest.raises(GarbledAnswerError):
            list(parse_associations(text))


class TestSubmitted:
    """sbatch."""

    def test_recorded(self) -> None:
        """The id that --parsable prints."""
        assert parse_submitted(recorded.text("sbatch-parsable.txt")) > 0

    @pytest.mark.parametrize(
        ("text", "job_id"),
        [("17", 17), ("17;cluster\n", 17), ("a warning\n4294967295\n", 2**32 - 1)],
    )
    def test_forms(self, text: str, job_id: int) -> None:
        """A cluster may follow, and a site's own words may go before."""
        assert parse_submitted(text) == job_id

    @pytest.mark.parametrize("text", ["", "\n", "Submitted batch job 17", "17 18", "-17", "１７a"])
    def test_garbled(self, text: str) -> None:
        """Anything else leaves it unknown whether there is a job."""
        with pytest.raises(GarbledAnswerError):
            parse_submitted(text)


class TestEstimate:
    """sbatch --test-only."""

    def test_recorded(self) -> None:
        """The start that --test-only prints, as SLURM_TIME_FORMAT=%s makes it."""
        found = parse_estimate(recorded.text("sbatch-test-only.txt"))
        assert found is not None
        assert found.tzinfo is UTC
        assert found.year >= 2026

    @pytest.mark.parametrize("kind", ["account", "partition", "memory"])
    def test_refusals_name_no_time(self, kind: str) -> None:
        """A refusal is no estimate."""
        assert parse_estimate(recorded.text(f"refused-{kind}.txt")) is None

    def test_a_time_of_another_form(self) -> None:
        """An old sbatch that writes local time is understood; nonsense is not a time."""
        text = "sbatch: Job 12 to start at {} using 2 processors on nodes cn01 in partition x"
        assert parse_estimate(text.format("2026-11-21T06:00:00+00:00")) == datetime(
            2026, 11, 21, 6, tzinfo=UTC
        )
        assert parse_estimate(text.format("soon")) is None
        assert parse_estimate(text.format("9" * 30)) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30:00", 1800),
        ("1:00", 60),
        ("8:00:00", 8 * 3600),
        ("1-00:00:00", 86400),
        ("30", 1800),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("UNLIMITED", None),
        ("Partition_Limit", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_walltimes_as_slurm_writes_them(text: str, seconds: int | None) -> None:
    """Slurm's forms (man sbatch, --time); a bare number is minutes."""
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize("text", ["[]", "1", "", "{", b"\xff", '{"a":'])
def test_json_that_is_no_object(text: str | bytes) -> None:
    """Only an object is an answer."""
    with pytest.raises(GarbledAnswerError):
        parse_json("the door", text)


@pytest.mark.parametrize(
    "name", ["controller-sbatch", "controller-squeue", "munge-sbatch", "munge-squeue"]
)
def test_silence_is_known(name: str) -> None:
    """What the real tools print when they did not hear the controller."""
    assert parsing.NOT_HEARD.search(recorded.text(f"silent-{name}.txt"))


@pytest.mark.parametrize(
    "kind",
    [
        "account",
        "partition",
        "qos",
        "walltime",
        "constraint",
        "memory",
        "gpus",
        "reservation",
        "nodes",
    ],
)
def test_a_refusal_is_no_silence(kind: str) -> None:
    """What the real sbatch prints when the controller said no."""
    assert not parsing.NOT_HEARD.search(recorded.text(f"refused-{kind}.txt"))
