"""The closed list of what a process may see: the system's programs, and the few folders that it is given."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sumika.models.tree import TREE

# Programs and libraries; nothing of a site's own lies there.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/sys")
# Of /etc: what the C library, TLS and the loader read. The settings of other programs, with their secrets, are not among them.
_ETC = (
    "alternatives", "ca-certificates", "gai.conf", "group", "host.conf", "hostname", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
    "localtime", "machine-id", "mime.types", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/tls", "protocols", "resolv.conf", "services",
    "ssl/certs", "ssl/openssl.cnf", "timezone", "vulkan", "OpenCL",
)  # fmt: skip
_FOLDERS_OF_LIBRARIES = ("LD_LIBRARY_PATH", "CUDA_HOME", "PYTHONPATH")
_FILES = ("OTEL_EXPORTER_OTLP_CERTIFICATE",)


@dataclass(frozen=True, slots=True)
class View:
    """`reads` and `writes`: folders and files with all below them; `home` is hidden but for those. `temp` stands for the temporary
    folder. `network`: whether addresses of other machines may be reached; Unix sockets of `writes` can be in any case."""

    home: Path
    temp: Path
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    network: bool = False
    devices: tuple[Path, ...] = field(default_factory=lambda: tuple(nvidia_devices()))


def nvidia_devices() -> list[Path]:
    return sorted(Path("/dev").glob("nvidia*"))


def programs(argv: Iterable[str], environment: Mapping[str, str]) -> list[Path]:
    """What must be readable for `argv` to run: the system's libraries, this Python with its packages, what the command line and
    `environment` name."""
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1], TREE, *_packages()]
    named = [Path(folder) for name in _FOLDERS_OF_LIBRARIES for folder in environment.get(name, "").split(":") if folder]
    named += [Path(environment[name]) for name in _FILES if name in environment]
    named += [Path(word).absolute() for word in argv if os.path.isfile(word)]
    found = [*map(Path, _SYSTEM), *(Path("/etc") / name for name in _ETC), *prefixes, *named]
    there = dict.fromkeys(path for path in found if path.is_absolute() and path.exists() and path != Path("/"))
    return [path for path in there if not any(above in there for above in path.parents)]


def without(path: Path, hidden: Path) -> Iterator[Path]:
    """`path`; or, where `hidden` lies in it, all of `path` beside `hidden`."""
    real, hidden = path.resolve(), hidden.resolve()
    if real == hidden or real.is_relative_to(hidden):
        return
    if not hidden.is_relative_to(real):
        yield path
        return
    for inner in sorted(path.iterdir()):
        yield from without(inner, hidden)


def _packages() -> list[Path]:
    """Where a virtual environment's packages lie outside of it (Debian's Python, `--user`)."""
    return [Path(folder) for folder in (*site.getsitepackages(), os.fspath(Path(os.__file__).parent))]
