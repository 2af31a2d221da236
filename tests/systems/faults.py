"""Faults that a test switches on between a hub and Slurm.

For the command line a folder of scripts (`SlurmBackend.slurm_bin`), each of which becomes the real
command unless its control file names a fault; for slurmrestd a proxy before it.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REAL = Path("/usr/bin")
COMMANDS = ("squeue", "sinfo", "sacct", "sacctmgr", "scontrol", "sbatch", "scancel")
# what Slurm prints when slurmctld took the message and its answer was not heard
LOST = "Batch job submission failed: Socket timed out on send/recv operation"

_SCRIPT = """\
#!/bin/sh
printf x >>{control}/{name}.calls
fault=$(cat {control}/{name} 2>/dev/null)
case "$fault" in
  "") exec {real} "$@" ;;
  fails) echo "{name}: error: drill" >&2; exit 1 ;;
  nothing) exit 0 ;;
  garbage) head -c 400 /dev/urandom | od -c; exit 0 ;;
  # what a command writes that is killed in the middle of a line
  half) text=$({real} "$@"); printf '%s' "$text" | head -c $(( ${{#text}} - 20 )); exit 0 ;;
  # whole lines, but not all of them
  few) {real} "$@" | head -n 1; exit 0 ;;
  hangs) exec sleep 30 ;;
  late) sleep 4; exec {real} "$@" ;;
  reply-lost) {real} "$@" >/dev/null; echo "{name}: error: {lost}" >&2; exit 1 ;;
  killed-after) {real} "$@" >/dev/null; kill -9 $$ ;;
  never-sent) echo "{name}: error: {lost}" >&2; exit 1 ;;
esac
echo "unknown fault $fault" >&2; exit 99
"""


class FaultyCommands:
    """Slurm's commands in a folder; every fault is off.

    Attributes:
        folder: For `SlurmBackend.slurm_bin`.
    """

    def __init__(self, folder: Path) -> None:
        """Fill `folder`, which is made; everybody can run what is in it."""
        self.folder = folder
        self._control = folder / "control"
        self._control.mkdir(parents=True)
        folder.chmod(0o755)
        for name in COMMANDS:
            calls = self._control / f"{name}.calls"
            calls.touch()
            calls.chmod(0o666)
            path = folder / name
            path.write_text(
                _SCRIPT.format(control=self._control, name=name, real=REAL / name, lost=LOST)
            )
            path.chmod(0o755)
        self._control.chmod(0o755)

    def set(self, command: str, fault: str) -> None:
        """Switch a fault on: from the next call of `command` on."""
        part = self._control / f"{command}.part"
        part.write_text(fault)
        part.replace(self._control / command)

    def clear(self) -> None:
        """Switch all faults off."""
        for command in COMMANDS:
            (self._control / command).unlink(missing_ok=True)

    def calls(self, command: str) -> int:
        """How often a command has been run."""
        return (self._control / f"{command}.calls").stat().st_size


class FaultyRest:
    """Stands before slurmrestd, and spoils what a test says.

    Attributes:
        lose_replies: Whether the connection closes after Slurm has taken a job, without a word.
        plan: What becomes of the next answers about the queue, one after the other: ``half`` (cut
            in the middle), ``garbage``, ``empty`` (an object without jobs), ``error`` (HTTP 500),
            or "" for the answer as it is; as it is, too, when nothing is planned.
        submissions: How many jobs were submitted through it.
    """

    def __init__(self, url: str) -> None:
        """Pass requests on to `url`; listens on loopback at once."""
        self.lose_replies = False
        self.plan: list[str] = []
        self.submissions = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.pass_on(self, b"")

            def do_POST(self) -> None:
                outer.pass_on(self, self.rfile.read(int(self.headers["Content-Length"])))

            def do_DELETE(self) -> None:
                outer.pass_on(self, b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing of each request."""

        self._behind = url
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Ask slurmrestd, and answer what the fault makes of its answer."""
        request = urllib.request.Request(
            self._behind + handler.path, data=body or None, method=handler.command
        )
        for name, value in handler.headers.items():
            if name.lower() not in {"host", "content-length", "connection"}:
                request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        submits = handler.path.endswith("/job/submit")
        self.submissions += submits
        if self.lose_replies and submits:
            handler.close_connection = True
            return
        fault = self.plan.pop(0) if handler.path.endswith("/jobs") and self.plan else ""
        if fault:
            spoils = {"half": text[: len(text) // 2], "garbage": b"\x00{]", "empty": b"{}"}
            text = spoils.get(fault, b"")
            status = 500 if fault == "error" else status
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
