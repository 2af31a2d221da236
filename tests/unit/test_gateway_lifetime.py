"""Services that a hub runs end with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from qhub_gateway.lifetime import RUN_BY, end_with_hub

# a hub that starts a service and is killed; the service writes down that it was asked to end
HUB = """
import os, subprocess, sys
environment = {**os.environ, "RUN_BY_NAME": str(os.getpid())}
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], env=environment)
print("started", flush=True)
sys.stdin.read()
"""
SERVICE = """
import asyncio, os, signal, sys
from pathlib import Path
from qhub_gateway.lifetime import end_with_hub

async def main():
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    task = asyncio.ensure_future(end_with_hub(os.environ))
    Path(sys.argv[1], "runs").touch()
    await asked.wait()
    task.cancel()
    Path(sys.argv[1], "ended").touch()

asyncio.run(main())
"""


async def there(path: Path) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(path.exists):
            await asyncio.sleep(0.05)


async def test_a_hub_that_was_killed(tmp_path: Path) -> None:
    """A service goes on while its hub lives, and is asked to end once it was killed."""
    hub = subprocess.Popen(
        [sys.executable, "-c", HUB.replace("RUN_BY_NAME", RUN_BY), SERVICE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        await there(tmp_path / "runs")
        assert not (tmp_path / "ended").exists()
        hub.send_signal(signal.SIGKILL)
        await there(tmp_path / "ended")
    finally:
        hub.kill()
        hub.communicate()


async def test_a_service_of_its_own() -> None:
    """One that no hub started is never asked to."""
    task = asyncio.ensure_future(end_with_hub({}))
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    task.cancel()
