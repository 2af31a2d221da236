"""Tell the hub what a server works at though neither it nor its person says so.

That is a program in a terminal, or processes of a kernel that itself waits, such as the workers of
a Dask cluster. Runs beside the server, as its person, with the standard library alone:
``python3 work.py [PID [SECONDS]]``, where the server is the parent if no PID says another. It looks
once a minute and ends with the server.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import NamedTuple

LOOK_SECONDS = 60.0
BUSY_CORES = 0.2
# Left open, these wait for their person; whoever waits is not at work.
QUIET = frozenset(
    [
        *("bash", "sh", "dash", "zsh", "fish", "csh", "tcsh", "ksh", "tmux", "screen"),
        *("vi", "vim", "nvim", "nano", "emacs", "less", "more", "man", "top", "htop", "watch"),
        *("su", "sudo", "newgrp", "ssh-agent", "gpg-agent"),
    ]
)


class Process(NamedTuple):
    """What proc(5) says of one: `ticks` is the processor time it has used, in clock ticks."""

    parent: int
    session: int
    terminal: int
    ticks: int
    name: str


def processes() -> dict[int, Process]:
    """Return every process of this machine (or container) that can be seen."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    line = file.read()
            except OSError:
                continue
            # 4711 (python3 -I) S 1 4711 4711 0 -1 ...: the name may hold spaces and brackets
            name, fields = line[line.index("(") + 1 : line.rindex(")")], line.rpartition(")")[2]
            part = fields.split()
            ticks = int(part[11]) + int(part[12])
            found[int(entry)] = Process(int(part[1]), int(part[3]), int(part[4]), ticks, name)
    return found


def below(server: int, known: dict[int, Process]) -> dict[int, Process]:
    """Return what descends from the server."""
    found: dict[int, Process] = {}
    for pid, process in known.items():
        chain, at = [pid], process.parent
        while at in known and at not in chain and at != server:
            chain.append(at)
            at = known[at].parent
        if at == server and pid != os.getpid():
            found[pid] = process
    return found


def work(now: dict[int, Process], before: dict[int, Process], seconds: float) -> str:
    """Say what is at work, a phrase; empty if nothing is."""
    for pid, process in now.items():
        if process.terminal and process.session != pid and process.name not in QUIET:
            return "a program runs in a terminal"
    used = sum(
        process.ticks - before[pid].ticks if pid in before else process.ticks
        for pid, process in now.items()
    )
    cores = used / os.sysconf("SC_CLK_TCK") / max(seconds, 0.1)
    return f"its processes use {cores:.1f} cores" if cores >= BUSY_CORES else ""


def environment(server: int) -> dict[str, str]:
    """Return the server's own environment: its token, and how it reaches the hub."""
    with open(f"/proc/{server}/environ", "rb") as file:
        words = file.read().decode(errors="replace").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def tell(what: str, variables: dict[str, str]) -> None:
    """Tell the hub."""
    import ssl
    import urllib.request

    url, context = variables["JUPYTERHUB_API_URL"], None
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=variables.get("JUPYTERHUB_SSL_CLIENT_CA"))
        if variables.get("JUPYTERHUB_SSL_CERTFILE"):
            files = variables["JUPYTERHUB_SSL_CERTFILE"], variables["JUPYTERHUB_SSL_KEYFILE"]
            context.load_cert_chain(*files)
    request = urllib.request.Request(
        f"{url}/qhub/busy",
        json.dumps({"what": what}).encode(),
        {"Authorization": f"token {variables['JUPYTERHUB_API_TOKEN']}"},
    )
    urllib.request.urlopen(request, timeout=20, context=context).close()  # nosec B310 - the address is the server's own


def main(server: int, seconds: float) -> None:
    """Look until the server has ended."""
    before: dict[int, Process] = below(server, processes())
    last = time.monotonic()
    while True:
        time.sleep(seconds)
        known = processes()
        if server not in known:
            return
        now, at = below(server, known), time.monotonic()
        what = work(now, before, at - last)
        before, last = now, at
        if what:
            try:
                tell(what, environment(server))
            except (OSError, KeyError, ValueError):
                continue  # the hub may be down; the next look tells it


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid(),
        float(sys.argv[2]) if len(sys.argv) > 2 else LOOK_SECONDS,
    )
