"""What a process and all that come from it do: processes started, seconds of CPU.

The kernel itself tells of every fork (its process events connector, `linux/cn_proc.h`): nothing is
put in the way of what is measured, and short-lived processes of other accounts count too.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.systems.processes import SystemUnavailableError

_CN_IDX_PROC = _CN_VAL_PROC = 1
_LISTEN, _IGNORE = 1, 2
_FORK, _EXIT = 0x00000001, 0x80000000
_NETLINK_CONNECTOR = 11
_NLMSG_DONE = 3
_HEADERS = 16 + 20  # struct nlmsghdr, struct cn_msg
_EVENT = struct.Struct("=IIQ")  # what, cpu, timestamp_ns
_IDS = struct.Struct("=IIII")  # fork: parent pid, parent tgid, child pid, child tgid
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 16 * 1024 * 1024
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


class Forks:
    """Counts the processes that come from some processes, threads excluded. Needs root.

    Raises:
        SystemUnavailableError: The kernel does not tell (CONFIG_PROC_EVENTS, CAP_NET_ADMIN).
    """

    def __init__(self) -> None:
        """Listen from `__enter__` on."""
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._lock = threading.Lock()
        self._roots: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._lost = False

    def __enter__(self) -> Self:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._socket.bind((0, _CN_IDX_PROC))
            self._say(_LISTEN)
        except OSError as error:
            msg = f"the kernel does not tell of new processes ({error}): counting them needs root"
            raise SystemUnavailableError(msg) from error
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._say(_IGNORE)
            connection, self._socket = self._socket, None
            connection.close()

    def follow(self, pid: int) -> None:
        """Count what comes from `pid` from now on, and from whatever it has started already."""
        with self._lock:
            self._counts.setdefault(pid, 0)
            self._roots[pid] = pid
            for child in _descendants(pid):
                self._roots[child] = pid

    def count(self, pid: int) -> int:
        """Return how many processes have come from `pid`, directly or not, since `follow`.

        Raises:
            RuntimeError: The kernel had to drop events, so nobody knows.
        """
        if self._lost:
            msg = "the kernel dropped process events; the count would be too low"
            raise RuntimeError(msg)
        with self._lock:
            return self._counts[pid]

    def _say(self, word: int) -> None:
        if self._socket is None:
            return
        body = struct.pack("=I", word)
        message = struct.pack("=IIIIHH", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(body), 0) + body
        header = struct.pack("=IHHII", 16 + len(message), _NLMSG_DONE, 0, 0, 0)
        self._socket.send(header + message)

    def _listen(self) -> None:
        while (connection := self._socket) is not None:
            try:
                data = connection.recv(65536)
            except OSError:
                # ENOBUFS while open: events were lost; otherwise it was closed under us
                self._lost = self._lost or self._socket is not None
                if self._socket is None:
                    return
                continue
            self._note(data)

    def _note(self, data: bytes) -> None:
        if len(data) < _HEADERS + _EVENT.size + _IDS.size:
            return
        what = _EVENT.unpack_from(data, _HEADERS)[0]
        first, group, child, child_group = _IDS.unpack_from(data, _HEADERS + _EVENT.size)
        with self._lock:
            if what == _FORK and child == child_group and group in self._roots:
                root = self._roots[group]
                self._roots[child] = root
                self._counts[root] += 1
            elif what == _EXIT and first == group and group not in self._counts:
                self._roots.pop(group, None)


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all it has waited for (proc(5), fields 14 to 17)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # "123 (a name (with) parentheses) S 1 …": the fields start after the last parenthesis
    fields = stat.rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) * _TICK_SECONDS
