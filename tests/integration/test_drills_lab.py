"""A drill with the real server: JupyterLab and a kernel in it live through what is done to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.drilling import Server
from tests.integration.drills import assert_settled

WHERE = "import json, os; print(json.dumps([os.environ['SLURM_JOB_ID'], os.getppid()]))"
TOO_MUCH = """
import subprocess, sys
print(subprocess.run([sys.executable, "-c", "bytearray(b'x') * (900 * 2**20)"]).returncode)
"""


async def test_lab_lives_on(drill_on: Any, user_bin: Path) -> None:
    """Through a killed hub, a suspension and a greedy child process the same server goes on."""
    drill = drill_on(config=f'c.Spawner.cmd = ["{user_bin}/jupyterhub-singleuser"]\n')
    server = Server("alice", "lab")
    drill.request(server, "lab")
    drill.hub.wait_ready(server.person, server.name, 120)
    token = drill.hub.user_token("alice")

    async def run(code: str) -> Any:
        return json.loads(await drill.hub.run_code("alice", code, server.name, token))

    job_id, pid = await run(WHERE)
    assert int(job_id) == drill.job_id(server)
    drill.hub.kill()
    drill.hub.restart()
    drill.hub.wait_ready(server.person, server.name)
    assert await run(WHERE) == [job_id, pid]
    drill.slurm.run(["scontrol", "suspend", job_id])
    drill.wait_polls()
    assert drill.model(server)["ready"]
    drill.slurm.run(["scontrol", "resume", job_id])
    assert await run(WHERE) == [job_id, pid]
    # the kernel's child is killed for its memory; kernel and server live
    assert await run(TOO_MUCH) == -9
    assert await run(WHERE) == [job_id, pid]
    drill.stop(server)
    assert "received signal 15, stopping" in drill.server_log(int(job_id))
    assert_settled(drill)
