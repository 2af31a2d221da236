"""What is submitted for a Dask cluster: quoted, without secrets, sized as decided."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from qhub_gateway import slurm_script
from qhub_gateway.requests import ClusterRequest, Owner, Size
from qhub_gateway.targets.target import WORKER_NAME
from qhub_spawner.profiles import Profile
from qhub_spawner.quantities import Cpu, Duration, Memory
from qhub_spawner.slurm.script import Defaults

NAMES = [f"{number:032x}" for number in range(3)]
TRICKY = 'it\'s "$(touch /tmp/owned)" `id` \\ ; &'


def request_of(**profile: object) -> ClusterRequest:
    """A request of alice's."""
    given = {
        "slug": "p",
        "display_name": "P",
        "cpu": 2,
        "memory": "4 GiB",
        "slurm": {"partition": "general", "gres": "tmp:1", "exclusive": True},
        **profile,
    }
    return ClusterRequest(
        owner=Owner(name="alice"),
        slug="p",
        options={},
        profile=Profile.model_validate(given),
        backend="slurm",
        backends=("slurm",),
        worker=Size(cpu=Cpu(2000), memory=Memory(4 * 2**30), gpus=1 if "gpu" in given else 0),
        worker_threads=2,
        scheduler=Size(cpu=Cpu(1000), memory=Memory(2**30)),
        walltime=Duration(7200),
        idle_timeout=None,
        max_workers=None,
    )


def test_options_of_a_worker() -> None:
    """What the profile says, with the worker's size; never started again by Slurm itself."""
    request = request_of(gpu={"count": 1, "type": "a100"})
    found = slurm_script.options(request, request.worker, Defaults(), scheduler=False)
    assert found == {
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "2",
        "mem": "4096M",
        "time": "02:00:00",
        "gres": "gpu:a100:1,tmp:1",
        "partition": "general",
        "exclusive": None,
        "no-requeue": None,
    }


def test_options_of_a_scheduler() -> None:
    """Small: no GPU, no GRES, no node of its own."""
    request = request_of(gpu=2)
    found = slurm_script.options(request, request.scheduler, Defaults(), scheduler=True)
    assert (found["cpus-per-task"], found["mem"]) == ("1", "1024M")
    assert not {"gres", "exclusive"} & set(found)


def test_a_scheduler_goes_where_its_workers_go() -> None:
    """But asks for nothing of their size, may last longer, and may go elsewhere."""
    block = {
        "partition": "general",
        "qos": "gpu",
        "reservation": "course",
        "constraint": "ib",
        "directives": ["--ntasks-per-node=4", "--gpus=2", "--mail-type=END", "--nodes=3"],
    }
    request = request_of(slurm=block)
    worker = slurm_script.options(request, request.worker, Defaults(), scheduler=False)
    assert (worker["ntasks-per-node"], worker["gpus"], worker["nodes"]) == ("4", "2", "3")
    scheduler = slurm_script.options(request, request.scheduler, Defaults(), scheduler=True)
    assert scheduler == {
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": "1",
        "mem": "1024M",
        "time": "02:00:00",
        "partition": "general",
        "qos": "gpu",
        "reservation": "course",
        "constraint": "ib",
        "mail-type": "END",
        "no-requeue": None,
    }
    changes = {
        "scheduler_walltime": "3d",
        "scheduler_slurm": {"partition": "service", "qos": "long"},
    }
    request = ClusterRequest.from_json({**request.to_json(), **changes})
    scheduler = slurm_script.options(request, request.scheduler, Defaults(), scheduler=True)
    assert (scheduler["partition"], scheduler["qos"]) == ("service", "long")
    assert (scheduler["time"], scheduler["constraint"]) == ("3-00:00:00", "ib")
    again = slurm_script.options(request, request.worker, Defaults(), scheduler=False)
    assert again == worker


def test_several_nodes() -> None:
    """A worker of several nodes has them all; its scheduler has one."""
    request = request_of(nodes=2)
    request = request.model_copy(update={"worker": request.worker.model_copy(update={"nodes": 2})})
    worker = slurm_script.options(request, request.worker, Defaults(), scheduler=False)
    scheduler = slurm_script.options(request, request.scheduler, Defaults(), scheduler=True)
    assert (worker["nodes"], scheduler["nodes"]) == ("2", "1")


@pytest.mark.parametrize("task", range(3))
def test_a_task_is_its_worker(tmp_path: Path, task: int) -> None:
    """The script runs the command with the name of its task, every word as it is, with the files."""
    request = request_of(environment={}, memory="1 GiB")
    show = tmp_path / "show"
    show.write_text(
        "#!/bin/bash\n"
        'printf "%s\\n" "$@" >"$OUT"\n'
        'cat "$DASK_DISTRIBUTED__COMM__TLS__WORKER__CERT" >>"$OUT"; echo >>"$OUT"\n'
        'cat "$DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY" >>"$OUT"; echo >>"$OUT"\n'
        'cat "$DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY" >>"$OUT"; echo >>"$OUT"\n'
        'env >>"$OUT"; exit 7\n'
    )
    show.chmod(0o755)
    argv = [str(show), WORKER_NAME, TRICKY, "tls://10.0.0.1:1"]
    text = slurm_script.worker_script(request.profile, "c" * 32, argv, NAMES, Defaults())
    assert "secret" not in text
    done = subprocess.run(
        ["/bin/bash"],
        input=text,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "OUT": str(tmp_path / "out"),
            "SLURM_ARRAY_TASK_ID": str(task),
            slurm_script.TLS_CERT: "secret certificate\n",
            slurm_script.TLS_KEY: "secret %s key\\n",
        },
        check=False,
        timeout=30,
    )
    assert done.returncode == 7
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:3] == [NAMES[task], TRICKY, "tls://10.0.0.1:1"]
    assert lines[3:7] == ["secret certificate", "", "secret %s key\\n", "secret %s key\\n"]
    assert not any("secret" in line for line in lines[7:])
    assert not list(tmp_path.glob("qhub-dask-*"))
    log = tmp_path / ".local/state/qhub/dask" / ("c" * 32) / f"{NAMES[task]}.log"
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_a_profile_adds() -> None:
    """Modules, prologue, epilogue and the environment, in this order around the command."""
    request = request_of(
        slurm={"modules": ["gcc/12"], "prologue": "echo before", "epilogue": "echo after"},
        environment={"prefix": "/opt/env"},
    )
    defaults = Defaults(prologue="echo first", epilogue="echo last")
    text = slurm_script.scheduler_script(request.profile, "c" * 32, ["dask", TRICKY], defaults)
    order = [
        "module load gcc/12",
        "echo first",
        "echo before",
        "export PATH=/opt/env/bin",
        shlex.join(["dask", TRICKY]),
        "echo after",
        "echo last",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)


def test_comment() -> None:
    """Whose it is, for people and for sacct."""
    text = slurm_script.comment("dask", "alice", "c1", "workers")
    assert text == '{"qhub-gateway":"dask","user":"alice","cluster":"c1","role":"workers"}'
