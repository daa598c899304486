"""Addresses of other services that people write into settings and jobs: one strict reading, so that no two programs read two hosts."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

_LONGEST = 512
# No user, no space, no control character, no backslash, ASCII alone. A host is read by `_host`.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
# RFC 1123; the underscore is what Compose and Kubernetes put into names of services.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Where clouds tell a machine its own credentials; those of AWS, Azure and Google over IPv4 are link-local.
_METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "metadata", "metadata.google.internal"})
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Address:
    """`host` in small letters, without the brackets of IPv6."""

    url: str
    scheme: str
    host: str

    @property
    def is_loopback(self) -> bool:
        ip = _ip(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback


def parse(url: str, *, query: bool = False) -> Address:
    """An http or https address in its plain spelling.

    Raises:
        ValueError: for every other spelling, and for a host that no service of a company has: link-local, unspecified,
            multicast, or one where a cloud tells credentials.
    """
    found = _URL.fullmatch(url) if len(url) <= _LONGEST else None
    if found is None or (found["query"] and not query):
        raise ValueError("must be an http:// or https:// address in ASCII, without user, password, spaces or #")
    if found["port"] is not None and not 1 <= int(found["port"]) <= 65_535:
        raise ValueError("has a port outside 1 to 65535")
    rest = (found["path"] or "") + (found["query"] or "")
    if _ESCAPE.search(rest) or not unquote(rest).isprintable():
        raise ValueError("holds an escape of a control character, or one that is none")
    return Address(url, found["scheme"], _host(found["host"].lower()))


def _host(host: str) -> str:
    host = host.strip("[]")
    if (ip := _ip(host)) is not None:
        _refuse_special(ip)
    elif ":" in host or _is_numeric(host.rpartition(".")[2]):
        raise ValueError("has a host that is no IP address in its usual spelling, such as 192.0.2.1 or [2001:db8::1]")
    elif len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError("has a host that is no name")
    if host in _METADATA:
        raise ValueError("names the service where a cloud tells credentials")
    return host


def _is_numeric(label: str) -> bool:
    """What the WHATWG's URL standard, and inet_aton, take for the end of an IPv4 address."""
    return label.isdigit() or re.fullmatch(r"0x[0-9a-f]*", label) is not None


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refuse_special(ip: IPv4Address | IPv6Address) -> None:
    if ip.is_loopback:
        return
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            raise ValueError("wraps an IPv4 address in IPv6; write the IPv4 address")
    if ip.is_link_local or ip in _THIS_NETWORK or ip.is_unspecified or ip.is_multicast or ip.is_reserved:
        raise ValueError("names a link-local, unspecified, multicast or reserved address, where no service of yours is")
