"""`sumika doctor`: what this machine can do, what stands in the way, and which models fit."""

from __future__ import annotations

import stat
from dataclasses import asdict, dataclass
from typing import Any

import pysqlite3.dbapi2 as sqlite
import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import catalog
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.serving import machine, stack
from sumika.serving.machine import Machine

# Below these, WAL can lose commits or corrupt the file (fixed in 3.51.3).
_SQLITE_FLOOR = (3, 51, 3)
_DISK_FLOOR = 5 * 2**30
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: fine or not, and what to do."""

    name: str
    ok: bool
    en: str
    ja: str


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(json: Json = False) -> None:
    """Check this machine and this home; exit code 1 where something must be mended."""
    with opened() as (settings, _):
        seen = machine.look(settings.layout.root)
        findings = [*_machine_findings(seen), *_home_findings(settings)]
        entries = catalog.entries()
    fitting = {
        entry.id: machine.fits(entry.parameters, seen, entry.kv_bytes, settings.engine.gpu_memory_utilization)
        for entry in entries
    }
    healthy = all(finding.ok for finding in findings)
    if json:
        output.print_json(
            {"healthy": healthy, "machine": asdict(seen), "findings": [asdict(f) for f in findings], "fits": fitting}
        )
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            output.out().print(f"{mark} {finding.ja if output.language() == 'ja' else finding.en}", highlight=False)
        output.out().print()
        rows: list[tuple[Any, ...]] = [
            ("✓" if fitting[e.id] else "✗", e.id, f"{e.parameters / 1e9:.2f} B", f"{e.weights_bytes / _GIB:.1f} GiB")
            for e in entries
        ]
        output.print_table(("fits", "model", "parameters", "bf16 weights"), rows, ("The catalog is empty.", "カタログは空です。"))
    if not healthy:
        raise typer.Exit(1)


def _machine_findings(seen: Machine) -> list[Finding]:
    gpus = ", ".join(f"{gpu.name} ({gpu.total_bytes / _GIB:.0f} GiB)" for gpu in seen.gpus)
    disk = f"{seen.disk_free_bytes / _GIB:.0f} GiB"
    return [
        Finding("cpu", True, f"{seen.cores} cores, {seen.memory_bytes / _GIB:.0f} GiB of memory", f"{seen.cores} コア、メモリ {seen.memory_bytes / _GIB:.0f} GiB"),
        Finding("gpu", True, f"GPU: {gpus}, driver {seen.driver}" if gpus else "no NVIDIA GPU answers; models run on the CPU, slowly",
                f"GPU: {gpus}、ドライバー {seen.driver}" if gpus else "NVIDIA GPUが見つかりません。CPUで動作します(低速)"),
        Finding("disk", seen.disk_free_bytes > _DISK_FLOOR, f"{disk} of disk free", f"ディスクの空き {disk}"),
        Finding("vllm", seen.vllm is not None, seen.vllm or "vLLM is not installed; run 'make install'", seen.vllm or "vLLMがありません。make install を実行してください"),
    ]  # fmt: skip


def _home_findings(settings: Settings) -> list[Finding]:
    key = settings.layout.admin_key
    private = not key.exists() or stat.S_IMODE(key.stat().st_mode) == 0o600
    sqlite_ok = sqlite.sqlite_version_info >= _SQLITE_FLOOR
    return [
        Finding("sqlite", sqlite_ok, f"SQLite {sqlite.sqlite_version}" + ("" if sqlite_ok else "; 3.51.3 or newer is needed: run 'make install'"),
                f"SQLite {sqlite.sqlite_version}" + ("" if sqlite_ok else "。3.51.3 以降が必要です: make install を実行してください")),
        Finding("admin_key", private, f"admin key {key}" + ("" if private else f" can be read by others; run: chmod 600 {key}"),
                f"管理者キー {key}" + ("" if private else f" が他の利用者から読めます。chmod 600 {key} を実行してください")),
        _port(settings),
    ]  # fmt: skip


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    try:
        stack.check_port(settings)
    except SumikaError:
        return Finding(
            "port", True, f"{where} is in use (by Sumika, if it runs)", f"{where} は使用中です(Sumikaが動作中ならそれです)"
        )
    return Finding("port", True, f"{where} is free", f"{where} は空いています")
