"""The programs: Python, SQLite's library, vLLM, and whether packages are those that were tested together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from sumika.cli.checkup.finding import Finding, fail, fine, warn

# Below it WAL can lose commits or corrupt the file (https://sqlite.org/wal.html, "The WAL-reset bug").
_SQLITE_FLOOR = (3, 51, 3)
_SHOWN = 5
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "*")


def python(optimize: int) -> Finding:
    """`optimize`: of `sys.flags`."""
    if optimize:
        return warn(
            "python", "Python runs with -O, which drops assertions that libraries rely on; unset PYTHONOPTIMIZE",
            "Pythonが -O で動作しており、ライブラリの検査が省かれます。PYTHONOPTIMIZE を外してください",
        )  # fmt: skip
    return fine("python", "Python checks assertions", "Pythonの検査は有効です")


def sqlite(version: tuple[int, int, int]) -> Finding:
    """`version`: of the library in use, which is not the system's."""
    spelled = ".".join(map(str, version))
    if version < _SQLITE_FLOOR:
        return fail(
            "sqlite", f"SQLite {spelled} can lose commits in WAL mode; 3.51.3 or newer is needed: run 'make install'",
            f"SQLite {spelled} はWALでコミットを失うことがあります。3.51.3 以降が必要です: make install を実行してください",
        )  # fmt: skip
    return fine("sqlite", f"SQLite {spelled} (pysqlite3)", f"SQLite {spelled} (pysqlite3)")


def vllm(told: str | None) -> Finding:
    """`told`: package and version."""
    if told is None:
        return fail("vllm", "vLLM is not installed; run 'make install'", "vLLMがありません。make install を実行してください")
    return fine("vllm", told, told)


def pinned(constraints: Path) -> dict[str, str]:
    """Package → version, as a constraints file says; empty where there is no such file."""
    try:
        text = constraints.read_text()
    except FileNotFoundError:
        return {}
    return {canonicalize_name(name): version for name, version in _PINNED.findall(text)}


def packages(installed: Mapping[str, str], wanted: Mapping[str, str]) -> Finding:
    """Both by canonical name. What is not installed is not missed: extras are chosen."""
    if not wanted:
        return warn(
            "packages", "there are no constraints beside this program to compare its packages with", "制約ファイルがないため、パッケージの版を確認できません"
        )  # fmt: skip
    other = [
        f"{name} {installed[name]} (not {wanted[name]})"
        for name in sorted(wanted)
        if installed.get(name, wanted[name]) != wanted[name]
    ]
    if other:
        shown = ", ".join(other[:_SHOWN]) + (", …" if len(other) > _SHOWN else "")
        return warn(
            "packages", f"{len(other)} packages are not of the version that was tested: {shown}; run 'make install'",
            f"{len(other)} 個のパッケージが検証済みの版と異なります: {shown}。make install を実行してください",
        )  # fmt: skip
    return fine("packages", "packages are the versions that were tested", "パッケージはすべて検証済みの版です")


def proxy(environment: Mapping[str, str]) -> Finding:
    """A proxy that is also asked for this machine's own addresses stands between Sumika and itself."""
    lower = {name.lower(): value for name, value in environment.items() if value}
    named = [name for name in _PROXIES if name in lower]
    exempt = {part.strip() for part in lower.get("no_proxy", "").split(",")}
    if named and not exempt.intersection(_LOOPBACK):
        return warn(
            "proxy", f"{', '.join(named)} is set and no_proxy does not name 127.0.0.1: clients on this machine would ask the proxy; add it to no_proxy",
            f"{', '.join(named)} が設定されていますが no_proxy に 127.0.0.1 がありません。no_proxy に追加してください",
        )  # fmt: skip
    return fine("proxy", "no proxy stands before this machine's own addresses", "このマシン自身への接続にプロキシは介在しません")
