"""What the system grants a process: open files, a clock that is right, swap, huge pages."""

from __future__ import annotations

from sumika.cli.checkup.finding import Finding, fine, warn

# Two sockets a request, the engines', the database's and logs, for a worker with some thousand streams.
_LEAST_FILES = 4_096
_GIB = 2**30


def open_files(limit: int) -> Finding:
    """`limit`: the hard one of RLIMIT_NOFILE; -1 for none."""
    if 0 <= limit < _LEAST_FILES:
        return warn(
            "open_files", f"a process may open {limit} files, and each running answer takes two; raise it ('ulimit -n 65536', LimitNOFILE=65536)",
            f"1プロセスが開けるファイルは {limit} 個です(応答1件につき2個使用)。ulimit -n 65536 や LimitNOFILE=65536 で増やしてください",
        )  # fmt: skip
    return fine(
        "open_files",
        f"a process may open {'any number of' if limit < 0 else limit} files",
        f"開けるファイル数: {'無制限' if limit < 0 else limit}",
    )


def time(kept: bool | None) -> Finding:
    """`kept`: whether the kernel says that its clock is synchronised; None where it says nothing."""
    if kept is False:
        return warn(
            "time", "nobody keeps this machine's clock right, and every record says its time; run NTP (chrony), and see 'timedatectl'",
            "このマシンの時計が同期されていません。記録の時刻に影響します。NTP(chrony)を設定し、timedatectl で確認してください",
        )  # fmt: skip
    return fine(
        "time",
        "the clock is synchronised" if kept else "the kernel does not say whether the clock is synchronised",
        "時計は同期されています" if kept else "時計の同期状態は確認できません",
    )


def swap(used: int) -> Finding:
    """`used`: bytes of this machine's memory that lie on disk now."""
    if used > _GIB:
        return warn(
            "swap", f"{used / _GIB:.1f} GiB of memory lies in swap: answers wait for the disk; run smaller models, or fewer",
            f"メモリのうち {used / _GIB:.1f} GiB がスワップにあり、応答が遅れます。モデルを小さくするか減らしてください",
        )  # fmt: skip
    return fine("swap", "memory is not swapped out", "スワップは使われていません")


def huge_pages(enabled: str, *, gpu: bool) -> Finding:
    """`enabled`: of /sys/kernel/mm/transparent_hugepage, with the chosen word in brackets; empty where there is none."""
    if "[never]" in enabled and not gpu:
        return warn(
            "huge_pages", "transparent huge pages are off, which slows models on the CPU; write 'madvise' to /sys/kernel/mm/transparent_hugepage/enabled",
            "透過的ヒュージページが無効で、CPU推論が遅くなります。/sys/kernel/mm/transparent_hugepage/enabled に madvise を設定してください",
        )  # fmt: skip
    return fine("huge_pages", "huge pages are as they should be", "ヒュージページの設定は適切です")


def swapped(meminfo: str) -> int:
    """Bytes, of the text of /proc/meminfo (proc(5): in kB)."""
    fields = {line.partition(":")[0]: line.split()[1] for line in meminfo.splitlines() if ":" in line}
    return (int(fields.get("SwapTotal", "0")) - int(fields.get("SwapFree", "0"))) * 1024
