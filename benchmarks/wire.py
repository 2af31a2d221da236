"""What goes over the wire between a hub and the API server: a forwarder that counts.

Both hubs reach the API server through it. It passes TLS on as it is, so that nothing between the
two ends changes but an address.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 256 * 1024


@dataclass(frozen=True)
class Traffic:
    """What has gone by since the start, TLS included."""

    received: int = 0
    """Bytes from the API server."""
    sent: int = 0
    """Bytes to it."""
    connections: int = 0

    @property
    def total(self) -> int:
        """Bytes in both directions."""
        return self.received + self.sent

    def since(self, earlier: Traffic) -> Traffic:
        """Return what has gone by after `earlier`."""
        return Traffic(
            self.received - earlier.received,
            self.sent - earlier.sent,
            self.connections - earlier.connections,
        )


class CountingForwarder:
    """A port on loopback that leads to another, for as long as the context lasts."""

    def __init__(self, target: str) -> None:
        """Lead to `target`, such as ``https://198.18.128.1:6443``, from `__enter__` on."""
        address = urlsplit(target)
        self._host, self._target_port = str(address.hostname), address.port
        self.port = 0
        self._received = self._sent = self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """What stands for the target's address."""
        return f"https://127.0.0.1:{self.port}"

    def so_far(self) -> Traffic:
        """Return what has gone by."""
        return Traffic(self._received, self._sent, self._connections)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._target_port)
        except OSError:
            writer.close()  # as the target would refuse
            return
        await asyncio.gather(
            self._pump(reader, far_writer, back=False), self._pump(far_reader, writer, back=True)
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if back:
                    self._received += len(data)
                else:
                    self._sent += len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # either end may go away at any time
        finally:
            writer.close()
