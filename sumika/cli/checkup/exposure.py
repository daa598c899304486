"""Who can reach the gateway, and whether what they send can be read on the way."""

from __future__ import annotations

import ipaddress

from sumika.cli.checkup.finding import Finding, fine, warn


def tls(host: str, public_url: str | None) -> Finding:
    """The gateway speaks plain HTTP: beyond this machine a proxy with TLS stands before it. `public_url`: where people reach that."""
    if _is_loopback(host):
        return fine(
            "tls", f"only this machine reaches the gateway ({host})", f"ゲートウェイにはこのマシンからのみ接続できます({host})"
        )
    if public_url is not None and public_url.startswith("https://"):
        return fine(
            "tls", f"people come by {public_url}; see that a firewall keeps them from {host} itself",
            f"利用者は {public_url} から接続します。{host} への直接接続をファイアウォールで遮断してください",
        )  # fmt: skip
    return warn(
        "tls", f"the gateway listens on {host} without TLS: keys and texts can be read on the network. Set host to 127.0.0.1 and put a proxy with the company's certificate before it",
        f"ゲートウェイはTLSなしで {host} を待ち受けており、鍵や本文が盗聴されます。host を 127.0.0.1 にし、社内証明書を持つプロキシを前段に置いてください",
    )  # fmt: skip


def port(where: str, *, free: bool, ours: bool) -> Finding:
    """`ours`: a gateway of ours beats."""
    if free:
        return fine("port", f"{where} is free", f"{where} は空いています")
    if ours:
        return fine("port", f"Sumika listens on {where}", f"Sumikaが {where} で待ち受けています")
    return warn(
        "port", f"{where} is in use by another program; end it, or set SUMIKA_PORT",
        f"{where} は別のプログラムが使用中です。終了するか、SUMIKA_PORT を変えてください",
    )  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
