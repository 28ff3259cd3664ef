"""A shaped link on one machine: a relay between two ports that lets through so many bits a second, after a delay."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

from benchmarks.glm.jobs import Link
from benchmarks.parties import free_address

PIECE = 32 * 1024
BUFFER_SECONDS = 0.05  # what a router holds back before the sender has to wait


class _Direction:
    """One direction of the link: pieces leave it at their time."""

    def __init__(self, source: socket.socket, target: socket.socket, link: Link) -> None:
        self._source, self._target, self._link = source, target, link
        self._pieces = queue.SimpleQueue[tuple[float, bytes]]()
        for work in (self._take, self._give):
            threading.Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        free = time.monotonic()
        piece = b"."
        while piece:
            try:
                piece = self._source.recv(PIECE)
            except OSError:
                piece = b""
            free = max(free, time.monotonic()) + 8 * len(piece) / (self._link.megabits * 1e6)
            self._pieces.put((free + self._link.delay_ms / 1e3, piece))
            time.sleep(max(0.0, free - time.monotonic() - BUFFER_SECONDS))

    def _give(self) -> None:
        while True:
            due, piece = self._pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not piece:
                    self._target.shutdown(socket.SHUT_WR)
                    return
                self._target.sendall(piece)
            except OSError:
                return


@contextlib.contextmanager
def shaped(link: Link, target: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Relay connections to `target` over the link; the value is the address to connect to."""
    address = free_address()
    with socket.create_server(address) as server:
        threading.Thread(target=_accept, args=(server, target, link), daemon=True).start()
        yield address


def _accept(server: socket.socket, target: tuple[str, int], link: Link) -> None:
    with contextlib.suppress(OSError):  # the server is closed at the end
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(target)
            except OSError:  # nobody listens yet: the peer dials again
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Direction(near, far, link)
            _Direction(far, near, link)
