"""Where a request came from: its peer, or, behind the one proxy that the settings trust, the address that this proxy says."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.types import Scope

Network = IPv4Network | IPv6Network
_FORWARDED = b"x-forwarded-for"


def address(scope: Scope) -> str:
    """Empty where nobody knows, as for what the gateway asks of itself."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def forwarded(scope: Scope, proxy: Network | None) -> tuple[str, int] | None:
    """The client of `scope`, which is the last that `proxy` named where the peer lies in it: what stands before that came from outside."""
    client: tuple[str, int] | None = scope.get("client")
    if proxy is None or not _lies_in(address(scope), proxy):
        return client
    named = _last(value for name, value in scope["headers"] if name == _FORWARDED)
    return client if named is None else (named, 0)


def _last(values: Iterable[bytes]) -> str | None:
    said = b",".join(values).decode("latin-1").rpartition(",")[2].strip().strip("[]")
    try:
        return str(ip_address(said))
    except ValueError:
        return None


def _lies_in(said: str, network: Network) -> bool:
    try:
        peer = ip_address(said)
    except ValueError:
        return False
    mapped = getattr(peer, "ipv4_mapped", None)
    return (mapped or peer) in network
