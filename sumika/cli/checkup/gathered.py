"""The facts of this machine and this home, put before the checks. Reads only; a database that is not there is not made."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as pysqlite
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

from sumika.cli import bill
from sumika.cli.checkup import counters, database, device, disk, duty, exposure, kernel, records, secrecy, software, weights
from sumika.cli.checkup.finding import Finding, fail
from sumika.models import clock, differences, leases, registry, sandbox, schema, upgrades, yamlfile
from sumika.models.audit import chain, checkpoints, sinks, witnessed
from sumika.models.audit.verify import verify
from sumika.models.errors import SumikaError
from sumika.models.integrity import Integrity
from sumika.models.registry import Version
from sumika.models.settings import DEFAULT_FILE, Settings
from sumika.models.store import Store, alembic_config
from sumika.models.tree import TREE
from sumika.serving import machine, plan, stack
from sumika.serving.machine import Machine

_CONSTRAINTS = TREE / "constraints"
_REDIS_TIMEOUT_S = 3
# adjtimex(2): the clock is not synchronised; and more bytes than any system's struct timex has.
_TIME_ERROR = 5
_TIMEX_BYTES = 512
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def of_machine(seen: Machine) -> Iterator[Finding]:
    cuda = _installed("nvidia-cuda-runtime") or _installed("nvidia-cuda-runtime-cu12")
    file = _CONSTRAINTS / ("cpu.txt" if cuda is None else "cuda.txt")
    yield device.cpu(seen)
    yield device.gpu(seen.gpus)
    yield device.driver(seen.driver, cuda)
    yield software.vllm(seen.vllm)
    yield software.python(sys.flags.optimize)
    yield software.sqlite(pysqlite.sqlite_version_info)
    yield software.packages({name: found.version for name, found in bill.packages().items()}, software.pinned(file))
    yield software.proxy(os.environ)
    yield kernel.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield kernel.time(clock_kept())
    yield kernel.swap(kernel.swapped(_text("/proc/meminfo")))
    yield kernel.huge_pages(_text("/sys/kernel/mm/transparent_hugepage/enabled"), gpu=bool(seen.gpus))


def clock_kept() -> bool | None:
    """Whether the kernel says that somebody keeps its clock right (adjtimex(2)); None where it does not say."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # of zeros: its modes then ask and set nothing
    state = -1 if call is None else int(call(timex))
    return None if state < 0 else state != _TIME_ERROR


def of_installation(settings: Settings, seen: Machine, *, deep: bool) -> Iterator[Finding]:
    """Of the home and its database; that they are another user's is all that such a one is told."""
    try:
        settings.layout.check_access()
    except SumikaError as error:
        yield fail("home", error.en, error.ja)
        return
    yield from of_home(settings, seen)
    yield from of_store(settings, deep=deep)


def of_home(settings: Settings, seen: Machine) -> Iterator[Finding]:
    home = settings.layout
    file = Path(os.environ.get("SUMIKA_CONFIG", DEFAULT_FILE))
    yield disk.space(seen.disk_free_bytes)
    yield disk.filesystem(
        disk.kind_of(existing(home.root), _text("/proc/self/mountinfo")), sqlite=settings.store_url.startswith("sqlite")
    )
    yield secrecy.private(secrecy.secrets_in(home))
    yield secrecy.folder(home.root)
    yield secrecy.settings_file(file, yamlfile.read(file).data if file.exists() else {})
    named = (issuer.client_secret_file for issuer in settings.oidc.issuers)
    yield secrecy.client_secrets(path for path in named if path is not None)
    yield secrecy.engines(settings.engine.sandbox, sandbox.usable())
    yield device.silent(machine.nvidia(), settings.engine.device)
    yield exposure.tls(settings.host, settings.oidc.public_url)
    yield _redis(settings.gateway.limits_url)


def of_store(settings: Settings, *, deep: bool) -> Iterator[Finding]:
    """What the database tells; with `deep`, the whole log and every file's hash too, which reads all weights once."""
    gateways = 0
    if settings.database_url is not None or settings.layout.database.exists():
        with closing(Store(settings.store_url)) as store:
            try:
                with store.read() as connection:
                    there = upgrades.current(connection)
                    yield _server(connection)
                    yield _clock(connection)
                    ours = upgrades.revisions(alembic_config())
                    yield database.schema(there, ours)
                    if there == ours[-1]:
                        gateways = _beating(connection)
                        yield from _of_rows(connection, settings, gateways)
                if deep and there == ours[-1]:
                    yield from _deep(store, settings)
            except SumikaError as error:
                yield fail("database", error.en, error.ja)
            except SQLAlchemyError as error:
                yield database.silent(str(getattr(error, "orig", error)).strip().splitlines()[0])
    try:
        stack.check_port(settings)
        free = True
    except SumikaError:
        free = False
    yield exposure.port(f"{settings.host}:{settings.port}", free=free, ours=gateways > 0)


def _of_rows(connection: Connection, settings: Settings, gateways: int) -> Iterator[Finding]:
    home = settings.layout
    end, last = chain.head(connection), checkpoints.last(home)
    now = datetime.now(UTC)
    yield records.signed(end.seq - (last.seq if last else 0), last.at if last else None, now)
    yield records.witness(settings.audit.witness, _witnessed(settings), last.seq if last else 0)
    versions = [version for version in registry.list_all(connection) if version.removed_at is None]
    there = [one for one in versions if (home.artifacts / one.folder).is_dir()]
    yield weights.there([str(one.ref) for one in versions if one not in there])
    yield weights.named([str(one.ref) for one in there if _has_strange(one, home.artifacts / one.folder)])
    yield weights.pinned([str(one.ref) for one in versions if _source(one).get("hub") and not _source(one).get("revision")])
    yield duty.supervised(gateways, leases.until(connection, "supervisor"), now)


def _source(version: Version) -> dict[str, Any]:
    """Where a version was pulled from; nothing for one that was imported."""
    found: dict[str, Any] = version.meta.get("source") or {}
    return found


def _witnessed(settings: Settings) -> int | None:
    file = sinks.file_of(settings.audit.witness)
    if file is None:
        return None
    try:
        return witnessed.read(file).last
    except OSError:
        return 0


def _deep(store: Store, settings: Settings) -> Iterator[Finding]:
    home = settings.layout
    try:
        found = verify(store, home, sinks.file_of(settings.audit.witness))
        yield records.whole(found.ok, found.rows)
    except SumikaError as error:  # a key file that is none
        yield fail("audit_chain", error.en, error.ja)
    except OSError as error:
        why = f"the witness {settings.audit.witness} can't be read: {error.strerror}"
        yield fail("audit_chain", why, f"証人 {settings.audit.witness} を読めません: {error.strerror}")
    with store.read() as connection:
        versions = [version for version in registry.list_all(connection) if version.removed_at is None]
    there = [one for one in versions if (home.artifacts / one.folder).is_dir()]
    yield weights.intact([str(one.ref) for one in there if _differs(home.artifacts / one.folder, one.digest)])


def _has_strange(version: Version, folder: Path) -> bool:
    try:
        Integrity(version, folder).check_names()
    except SumikaError:
        return True
    return False


def _differs(folder: Path, digest: str) -> bool:
    try:
        return bool(differences.find(folder, digest))
    except SumikaError:  # its manifest is gone
        return True


def _server(connection: Connection) -> Finding:
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("PRAGMA quick_check(1)")).scalars().all()
        return database.sqlite([str(row) for row in rows if row != "ok"])
    told = {name: str(connection.execute(text(f"SHOW {name}")).scalar_one()) for name in _DURABLE}
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    return database.postgresql(number // 10_000, told)


def _clock(connection: Connection) -> Finding:
    if connection.dialect.name == "sqlite":
        return database.clock(0.0)  # this machine's own
    before = datetime.now(UTC).timestamp()
    theirs = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return database.clock((before + datetime.now(UTC).timestamp()) / 2 - theirs)


def _beating(connection: Connection) -> int:
    since = clock.spell(datetime.now(UTC) - plan.GATEWAY_GONE)
    return len(connection.execute(select(schema.gateways.c.id).where(schema.gateways.c.beat_at > since)).all())


def _redis(url: str | None) -> Finding:
    if url is None:
        return counters.none()
    try:
        with Redis.from_url(url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S) as server:
            return counters.redis(str(server.info("server")["redis_version"]))
    except RedisError as error:
        return counters.redis(None, str(error))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
