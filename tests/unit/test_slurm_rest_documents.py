"""The documents that go to slurmrestd and come from it, as the real one has sent them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.errors import SlurmError, SlurmRejectedError, SlurmUnavailableError
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm.jobs import GarbledAnswerError, JobState
from qhub_spawner.slurm.parsing import limits_of, parse_accounting, parse_nodes, parse_queue
from qhub_spawner.slurm.rest_documents import (
    NoRouteError,
    association_of,
    checked,
    ending_of,
    job_description,
    job_of,
    nodes_of,
    partition_of,
    rows,
    unsupported_options,
)
from qhub_spawner.slurm.script import Defaults, Submission, options_of
from tests.unit import recorded

IDS = recorded.jobs()


def answers(name: str) -> list[tuple[str, int, bytes]]:
    """Return recorded answers: what was asked, the status, the body."""
    return [
        (each["what"], each["code"], json.dumps(each["body"]).encode())
        for each in recorded.document(f"rest-{name}.json")
    ]


def body(name: str, number: int = 0) -> dict[str, Any]:
    """Return one recorded answer, checked."""
    return checked(*answers(name)[number])


def submission(options: dict[str, str | None]) -> Submission:
    """Return a submission with a secret."""
    name = "qhub-a1-0000000000000001"
    return Submission(name, '{"user":"alice"}', options, "#!/bin/bash\n", {"TOKEN": "secret"})


class TestRows:
    """What comes back."""

    def test_recorded_queue_is_what_squeue_says(self) -> None:
        """Both transports see the same jobs."""
        rest = {job.job_id: job for job in rows(body("queue"), "jobs", job_of)}
        text = {job.job_id: job for job in parse_queue(recorded.text("queue.txt"), recorded.MARK)}
        assert set(rest) == set(text)
        for job_id, job in text.items():
            same = rest[job_id]
            for field in ("state", "name", "user", "partition", "node_list", "walltime_seconds"):
                assert getattr(same, field) == getattr(job, field), (job_id, field)
            assert (same.reason or "None") == (job.reason or "None")

    def test_recorded_nodes_are_what_sinfo_says(self) -> None:
        """And the same nodes."""
        nodes, partitions = body("machines", 0), body("machines", 1)
        if "nodes" not in nodes:
            nodes, partitions = partitions, nodes
        rest = {node.name: node for each in rows(nodes, "nodes", nodes_of) for node in each}
        text = {node.name: node for node in parse_nodes(recorded.text("machines.txt"))}
        assert set(rest) == set(text)
        for name, node in text.items():
            same = rest[name]
            for field in (
                *("address", "partition", "cpus_total", "cpus_allocated", "memory_mebibytes"),
                *("memory_allocated_mebibytes", "gpus", "features"),
            ):
                assert getattr(same, field) == getattr(node, field), (name, field)
            assert same.up == node.up, name
        known = {each.name: each for each in rows(partitions, "partitions", partition_of)}
        assert known["general"].default
        assert not known["gpu"].default
        assert known["gpu"].longest_seconds == 7200
        assert all(each.up for each in known.values())

    def test_recorded_endings_are_what_sacct_says(self) -> None:
        """And the same ends; the exit status of a failed job is missing in 22.05."""
        text = parse_accounting(recorded.text("endings.txt"))
        rest = {}
        for answer in answers("endings"):
            if answer[0].startswith("slurmrestd GET /slurmdb/"):
                for ending, killer in rows(checked(*answer), "jobs", ending_of):
                    rest[ending.job_id] = (ending, killer)
        for job_id, ending in text.items():
            same, killer = rest[job_id]
            assert same.state is ending.state, job_id
            assert same.exit_signal == ending.exit_signal
            assert (killer == "alice") == (ending.cancelled_by is not None)
            if ending.state.over:
                assert same.ended == ending.ended

    def test_recorded_limits_are_what_sacctmgr_says(self) -> None:
        """And the same limits."""
        from qhub_spawner.slurm.parsing import parse_associations

        text = limits_of(parse_associations(recorded.text("limits.txt")))
        assert limits_of(rows(body("limits"), "associations", association_of)) == text

    @pytest.mark.parametrize(
        "document", [{}, {"jobs": None}, {"jobs": {}}, {"jobs": [1]}, {"jobs": [{}]}]
    )
    def test_garbled(self, document: dict[str, Any]) -> None:
        """An answer without its rows, or with half of one, is no answer."""
        with pytest.raises(GarbledAnswerError):
            list(rows(document, "jobs", job_of))

    @pytest.mark.parametrize("moment", [2**63, 2**53 + 1, 67768036191676800, -1, 2**64 - 2])
    def test_a_moment_that_is_none(self, moment: int) -> None:
        """A number that is no moment is not known, on every platform."""
        row = {"job_id": 1, "job_state": "RUNNING", "end_time": moment}
        assert [job.end for job in rows({"jobs": [row]}, "jobs", job_of)] == [None]

    @given(
        st.dictionaries(
            st.sampled_from(
                ["job_id", "job_state", "time_limit", "name", "end_time", "cpus", "nodes"]
            ),
            st.none()
            | st.integers()
            | st.text()
            | st.lists(st.integers(), max_size=2)
            | st.booleans(),
        )
    )
    def test_any_row(self, row: dict[str, Any]) -> None:
        """Whatever a row holds, it is read or refused with our own error."""
        with suppress(GarbledAnswerError):
            list(rows({"jobs": [row]}, "jobs", job_of))


class TestVerdicts:
    """What an answer means."""

    def test_recorded_refusals(self) -> None:
        """slurmctld's own no, with its words."""
        said = {}
        for what, code, text in answers("refused"):
            try:
                checked(what, code, text)
            except SlurmRejectedError as error:
                said[len(said)] = error.words
        assert list(said.values()) == [
            "Slurm refused it: Invalid account or account/partition combination specified",
            "Slurm refused it: Invalid qos specification",
            "Slurm refused it: Requested time limit is invalid (missing or exceeds some limit)",
            "Slurm refused it: Invalid job id specified",
        ]

    def test_a_job_that_was_taken(self) -> None:
        """What slurmrestd 22.05.8 says beside a job's number is why it waits, and no refusal."""
        error = {
            "error_code": 2068,
            "error": "Required node not available (down, drained or reserved)",
        }
        body = {"errors": [error], "job_id": 698001, "step_id": "BATCH", "job_submit_user_msg": ""}
        assert checked("submit", 200, json.dumps(body).encode())["job_id"] == 698001
        with pytest.raises(SlurmRejectedError, match="Required node not available"):
            checked("submit", 200, json.dumps({**body, "job_id": 0}).encode())

    def test_recorded_nothing_found(self) -> None:
        """Accounting that knows no such job answers so: an empty list, and no failure."""
        what, code, text = answers("refused")[-1]
        assert what.startswith("slurmrestd GET /slurmdb/")
        assert checked(what, code, text)["jobs"] == []

    def test_recorded_silence(self) -> None:
        """With slurmdbd or slurmctld down, nothing may be concluded: least of all a refusal."""
        silent = answers("silent")
        assert len(silent) == 4
        for answer in silent:
            with pytest.raises(SlurmUnavailableError):
                checked(*answer)

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (401, b"Authentication failure"),
            (403, b"{}"),
            (599, b""),
            (503, b""),
            (500, b""),
            (500, b"{}"),
            (200, b""),
            (200, b"[]"),
            (200, b'{"jobs": ['),
            (500, b'{"errors": ["x"]}'),
            (500, b'{"errors": [{}]}'),
            (500, b'{"errors": [{"error": "Unspecified error", "error_number": -1}]}'),
            (500, b'{"errors": [{"error": "in standby", "error_number": 2027}]}'),
            (500, b'{"errors": [{"error": "Socket timed out", "error_number": 2000}]}'),
        ],
    )
    def test_no_answer(self, code: int, text: bytes) -> None:
        """Whatever is not slurmctld's own word is no word at all."""
        with pytest.raises(SlurmUnavailableError):
            checked("slurmrestd GET /", code, text)

    def test_no_such_route(self) -> None:
        """Recorded by hand from a slurmrestd without slurmdbd: its 404 is no JSON."""
        text = b"Unable find requested URL. Please view /openapi/v3 for API reference."
        with pytest.raises(NoRouteError, match="rest_version"):
            checked("slurmrestd GET /", 404, text)

    @given(st.integers(200, 599), st.binary(max_size=50))
    def test_any_answer(self, code: int, text: bytes) -> None:
        """Every answer is a document or an error of ours."""
        with suppress(SlurmError):
            assert isinstance(checked("x", code, text), dict)


class TestDescription:
    """What goes there."""

    def test_every_field(self) -> None:
        """Each option has the field under which 22.05 takes it (held to the real one elsewhere)."""
        options = options_of(
            Profile.model_validate(
                {
                    "slug": "x",
                    "display_name": "X",
                    "cpu": 2,
                    "memory": "1 GiB",
                    "walltime": "90m",
                    "gpu": 1,
                    "nodes": 2,
                    "slurm": {
                        "partition": "gpu",
                        "account": "research",
                        "qos": "gpu",
                        "reservation": "r",
                        "constraint": "gpu",
                        "exclusive": True,
                        "directives": ["--nice=5", "--no-requeue", "--nodelist=a,b"],
                    },
                }
            ),
            Defaults(),
        )
        job = job_description(submission(options))
        assert job == {
            "name": "qhub-a1-0000000000000001",
            "comment": '{"user":"alice"}',
            "standard_output": "/dev/null",
            "standard_error": "/dev/null",
            "current_working_directory": "/",
            "environment": {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "TOKEN": "secret",
            },
            "nodes": "2",
            "tasks_per_node": 1,
            "cpus_per_task": 2,
            "memory_per_node": 1024,
            "time_limit": 90,
            "gres": "gpu:1",
            "partition": "gpu",
            "account": "research",
            "qos": "gpu",
            "reservation": "r",
            "constraints": "gpu",
            "exclusive": "exclusive",
            "nice": "5",
            "no_requeue": True,
            "nodelist": "a,b",
        }

    @pytest.mark.parametrize(
        ("option", "value", "field"),
        [
            ("mem", "4G", 4096),
            ("mem", "4000", 4000),
            ("mem", "1T", 1024 * 1024),
            ("mem", "1500K", 2),
            ("mem", "2gb", 2048),
            ("time", "30", 30),
            ("time", "30:00", 30),
            ("time", "0:30", 1),
            ("time", "1-12", 36 * 60),
            ("time", "UNLIMITED", 0),
            ("exclusive", "user", "user"),
        ],
    )
    def test_values_as_sbatch_takes_them(self, option: str, value: str, field: object) -> None:
        """A hub's req_* of before may be written in any form that sbatch takes."""
        job = job_description(submission({option: value}))
        assert field in job.values()

    @pytest.mark.parametrize(
        ("option", "value"),
        [("mem", "much"), ("time", "long"), ("cpus-per-task", "x"), ("mem", "")],
    )
    def test_a_value_that_is_none(self, option: str, value: str) -> None:
        """It is refused before anything is sent."""
        with pytest.raises(SlurmRejectedError, match=f"--{option}="):
            job_description(submission({option: value}))

    @pytest.mark.parametrize(
        ("name", "value"), [("A", "b\0c"), ("A=B", "c"), ("", "c"), ("A\n", "c")]
    )
    def test_an_environment_that_none_can_be(self, name: str, value: str) -> None:
        """It would be cut, or become another variable."""
        base = submission({})
        made = Submission(base.name, base.comment, {}, base.script, {name: value})
        with pytest.raises(SlurmRejectedError, match="cannot hold"):
            job_description(made)

    @pytest.mark.parametrize("option", ["clusters", "exclude", "mail-user", "signal", "x"])
    def test_options_without_a_field(self, option: str) -> None:
        """They are named, at the hub's start and once more when it comes to it."""
        assert unsupported_options([option, "mem"]) == [option]
        with pytest.raises(SlurmRejectedError, match=f"--{option}"):
            job_description(submission({option: "1"}))

    @given(
        st.dictionaries(st.sampled_from(["account", "qos", "constraint", "reservation"]), st.text())
    )
    def test_values_stay_in_their_field(self, options: dict[str, str]) -> None:
        """Whatever a value holds, it is the text of one field of a JSON document."""
        job = job_description(submission(dict(options)))
        fields = {"constraint": "constraints"}
        for option, value in options.items():
            assert json.loads(json.dumps(job))[fields.get(option, option)] == value
        assert len(job) == 6 + len(options)


def test_states_of_the_recording_are_known() -> None:
    """No state of the recording is UNKNOWN to us."""
    for job in rows(body("queue"), "jobs", job_of):
        assert job.state is not JobState.UNKNOWN
    assert {job.job_id for job in rows(body("queue"), "jobs", job_of)} == set(IDS.values())
