"""The wheels that Sumika runs on, and none beside them: pip fetches each by the hash that constraints/ pins, closed under what they need."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from sumika.models.errors import SumikaError, quoted

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==.*(?:\n +--hash=.*)*", re.MULTILINE)
_SAID = 500


@dataclass(frozen=True, slots=True)
class Source:
    """Whence packages come: pip's own settings, or, where it is named, one folder of wheels alone."""

    folder: Path | None = None

    @property
    def options(self) -> list[str]:
        return ["--no-index", "--find-links", str(self.folder)] if self.folder else []


def build(tree: Path, source: Source, into: Path) -> Path:
    """Sumika's own wheel.

    Raises:
        SumikaError: `packages_missing`.
    """
    tools = str(tree / "constraints" / "tools.txt")  # what builds it comes by hash too
    _pip("wheel", "--no-deps", "--build-constraint", tools, "--wheel-dir", str(into), *source.options, str(tree))
    return next(into.glob("sumika-*.whl"))


def gather(ours: Path, extras: Iterable[str], constraints: Path, left_out: Iterable[str], source: Source, into: Path) -> str:
    """Everything that the wheel `ours` with `extras` runs on, downloaded to `into`; the lines that pin it, with hashes.

    `left_out`: canonical names that the constraints go without, though packages ask for them.

    Raises:
        SumikaError: `packages_missing`; `unpinned`, for a package that the constraints do not name.
    """
    pins = {str(canonicalize_name(match[1])): match[0] for match in _PIN.finditer(constraints.read_text())}
    known, files = set(left_out), {str(canonicalize_name("sumika")): ours}
    got: dict[str, set[str]] = {}
    fresh = {"sumika": set(extras), "pip": set()}
    while fresh:
        wanted = [name for name in fresh if name not in files]
        if unpinned := sorted(set(wanted) - set(pins)):
            raise _unpinned(unpinned, constraints)
        files |= _download([pins[name] for name in wanted], source, into)
        for name, asked in fresh.items():
            got.setdefault(name, set()).update(asked)
        fresh = _not_yet(got, [need for name, asked in fresh.items() for need in _needs(files[name], asked)], known)
    return "".join(f"{pins[name]}\n" for name in sorted(set(got) - {"sumika"}))


def unpacked_bytes(wheels: Iterable[Path]) -> int:
    return sum(info.file_size for path in wheels for info in zipfile.ZipFile(path).infolist())


def _not_yet(got: dict[str, set[str]], needs: list[Requirement], known: set[str]) -> dict[str, set[str]]:
    fresh: dict[str, set[str]] = {}
    for need in needs:
        name = str(canonicalize_name(need.name))
        if name not in known and (name not in got or need.extras - got[name]):
            fresh.setdefault(name, set()).update(need.extras)
    return fresh


def _needs(wheel: Path, extras: set[str]) -> Iterator[Requirement]:
    for text in distribution(wheel).requires or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def distribution(wheel: Path) -> Distribution:
    """What a wheel says of itself, without being installed."""
    return PathDistribution(next(path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info")))


def _download(pins: Sequence[str], source: Source, into: Path) -> dict[str, Path]:
    if pins:
        listed = into.parent / "wanted.txt"
        listed.write_text("\n".join(pins))
        _pip(
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--dest",
            str(into),
            *source.options,
            "--requirement",
            str(listed),
        )
    return {str(parse_wheel_filename(path.name)[0]): path for path in into.glob("*.whl")}


def _pip(*arguments: str) -> None:
    told = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True, check=False)
    if told.returncode:
        said = quoted(told.stderr.strip()[-_SAID:], _SAID)
        raise SumikaError(
            "packages_missing",
            f"pip could not get every package ({said}). Set pip up for an index that has them (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), or name a folder of wheels with --from.",
            f"pipで必要なパッケージをすべて取得できませんでした({said})。PIP_INDEX_URL、PIP_EXTRA_INDEX_URL、PIP_FIND_LINKS を設定するか、--from でwheelのフォルダーを指定してください。",
        )


def _unpinned(names: list[str], constraints: Path) -> SumikaError:
    return SumikaError(
        "unpinned",
        f"{constraints} does not pin {', '.join(names)}, which is needed. Run 'make lock', look at what changed, and try again.",
        f"{constraints} に必要な {', '.join(names)} がありません。make lock を実行し、変更内容を確認してからやり直してください。",
    )
