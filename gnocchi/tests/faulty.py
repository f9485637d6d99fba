"""A TCP proxy that is what networks and servers are on bad days."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

PIECE_BYTES = 1 << 16


class FaultyProxy:
    """Passes connections on to a port of this machine, or does worse; what it does may be changed at any time.

    It runs in a thread of the test, and listens on all addresses.  Changes also concern connections that are open.

    Attributes
    ----------
    port : int
        Where it listens, also while it passes nothing on.
    accepted : int
        Connections so far.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._server = socket.create_server(("", 0), backlog=1024)
        self.port: int = self._server.getsockname()[1]
        self.accepted = 0
        self._delay_s = 0.0
        self._left: int | None = None
        self._answer: bytes | None = None
        self._resets = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()
        self._thread = threading.Thread(target=self._run, name="faulty proxy", daemon=True)
        self._thread.start()

    # What it may do

    def pass_on(self) -> None:
        """Do what a proxy should; what was withheld goes on its way."""
        self._change()

    def delay(self, seconds: float) -> None:
        """Let every piece of data take so long, in both directions."""
        self._change(delay_s=seconds)

    def swallow(self) -> None:
        """Accept connections and data, and never answer: a black hole."""
        self._change(flows=False)

    def reset(self) -> None:
        """Break every connection, and each new one once it is accepted."""
        self._change(resets=True, breaks=True)

    def cut_after(self, count: int) -> None:
        """Break the connection that brings the answers' byte number `count`, all connections counted; then pass on."""
        self._change(left=count)

    def answer(self, data: bytes) -> None:
        """Ask nobody: give every piece of a request this answer, as a server does that is there and cannot work."""
        self._change(answer=data, breaks=True)

    def close(self) -> None:
        """End it, with all connections."""
        self._call(lambda: (self._break_all(), self._loop.stop()))
        self._thread.join()

    # How it does it

    def _change(self, *, delay_s: float = 0.0, left: int | None = None, answer: bytes | None = None,
                resets: bool = False, flows: bool = True, breaks: bool = False) -> None:
        def change() -> None:
            self._delay_s, self._left, self._answer, self._resets = delay_s, left, answer, resets
            if breaks:
                self._break_all()
            if flows:
                self._flows.set()
            else:
                self._flows.clear()

        self._call(change)

    def _call(self, function: Callable[[], object]) -> None:
        """Run in the loop's thread, and return when it has."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        done.wait()

    def _break_all(self) -> None:
        for writer in tuple(self._writers):
            _break(writer)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._server))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.accepted += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if self._resets:
                    _break(writer)
                elif self._answer is not None:
                    await self._answer_all(reader, writer)
                else:
                    await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(PIECE_BYTES) and self._answer is not None:
            writer.write(self._answer)
            await writer.drain()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(back)
        try:
            await asyncio.gather(self._pump(reader, back, False), self._pump(there, writer, True))
        finally:
            self._writers.discard(back)
            back.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while piece := await source.read(PIECE_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flows.wait()
                if answers and self._left is not None:
                    kept = piece[:self._left]
                    self._left -= len(kept)
                    if len(kept) < len(piece):
                        self._left = None
                        sink.write(kept)
                        await sink.drain()
                        raise ConnectionResetError
                sink.write(piece)
                await sink.drain()
        finally:
            sink.close()


def _break(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side gets a reset."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def faulty(target: int) -> Iterator[FaultyProxy]:
    """Give a proxy before a port of this machine."""
    proxy = FaultyProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
