"""A TCP proxy before a database that falls silent: connections stay open and answer nothing, as behind a network that drops packets."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, make_url


class SilentProxy:
    """Forwards between clients and the database of `url`, except while `silent` is set."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._over = threading.Event()
        self.silent = threading.Event()
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        plain = URL.create(
            self._target.drivername, self._target.username, self._target.password, host, port, self._target.database
        )
        return plain.render_as_string(hide_password=False)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for one in [self._listener, *self._peers]:
            one.close()

    def _forward(self) -> None:
        while not self._over.is_set():
            if self.silent.is_set():
                self._over.wait(0.02)
                continue
            for key, _ in self._selector.select(0.02):
                if self.silent.is_set():
                    break
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._listener:
                    self._accept()
                else:
                    self._pass_on(found)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = self._connect()
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _connect(self) -> socket.socket:
        host = str(self._target.query.get("host") or self._target.host)
        port = self._target.port or 5432
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, port))

    def _pass_on(self, one: socket.socket) -> None:
        other = self._peers.get(one)
        if other is None:
            return
        try:
            data = one.recv(65536)
            if data:
                return other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            self._peers.pop(end, None)
            self._selector.unregister(end)
            end.close()


@contextmanager
def silent_proxy(url: str) -> Iterator[SilentProxy]:
    proxy = SilentProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
