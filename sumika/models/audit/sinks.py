"""Where checkpoints go besides the home, so that whoever can rewrite all of it can't take back what was told.

`file:/PATH` appends to a file; `syslog:/PATH` is a local daemon's socket; `syslog:udp://HOST:PORT` and `syslog:tcp://HOST:PORT` a server in
the company's network (RFC 5424 in RFC 6587's octet counting). Each gets the signed line itself.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from sumika.models import clock

APP = "sumika-audit"
_FILE, _SYSLOG = "file:", "syslog:"
_PORT = 514
_TIMEOUT_S = 2.0
# authpriv (10), notice (5), as RFC 5424 counts them.
_PRIORITY = 10 * 8 + 5


def send(witness: str, line: bytes) -> None:
    """Tell `witness`, as the settings name it, of one checkpoint.

    Raises:
        OSError: where it can't be told, which a lost UDP datagram is no case of.
    """
    if (file := file_of(witness)) is not None:
        return _append(file, line)
    where = witness.removeprefix(_SYSLOG)
    if where.startswith("/"):
        return _local(where, line)
    url = urlsplit(where)
    address = (str(url.hostname), url.port or _PORT)
    message = f"<{_PRIORITY}>1 {clock.now()} {socket.gethostname()} {APP} {os.getpid()} checkpoint - ".encode() + line
    if url.scheme == "udp":
        return _datagram(address, message)
    with socket.create_connection(address, timeout=_TIMEOUT_S) as connection:
        connection.sendall(b"%d %s" % (len(message), message))


def file_of(witness: str | None) -> Path | None:
    """The file that can be read back, where the witness is one."""
    return Path(witness.removeprefix(_FILE)) if witness is not None and witness.startswith(_FILE) else None


def _append(file: Path, line: bytes) -> None:
    """In one write, at its end: such a file may be nobody's to change otherwise (`chattr +a`)."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, line + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


def _local(path: str, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(path)
        connection.send(b"<%d>%s[%d]: %s" % (_PRIORITY, APP.encode(), os.getpid(), line))


def _datagram(address: tuple[str, int], message: bytes) -> None:
    family, kind, protocol, _, found = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.sendto(message, found)
