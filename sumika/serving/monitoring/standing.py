"""How things stand, for Prometheus: read from the store and the home when it asks, so whichever worker it asks tells the same.

Labels are names of the registry and of the company's own machines; none comes from what a client sent.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import get_args

import pynvml
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from sqlalchemy import Connection, func, select

from sumika.models import aliases, clock, engines, jobs, pools, registry, runfiles, schema
from sumika.models.audit import chain, checkpoints
from sumika.models.engines import STATES
from sumika.models.home import Home
from sumika.models.store import Store

_m = schema.moves.c
_GPU = "gpu"


class Standing:
    """A collector of prometheus_client's kind."""

    def __init__(self, store: Store, home: Home) -> None:
        self._store = store
        self._home = home

    def collect(self) -> Iterator[Metric]:
        with self._store.read() as connection:
            yield from _engines(connection)
            yield from _aliases(connection)
            yield from _moves(connection)
            yield from _jobs(connection, self._home)
            yield from _audit(connection, self._home)
        yield from _disk(self._home)
        yield from _gpus()


def _engines(connection: Connection) -> Iterator[Metric]:
    rows = engines.list_all(connection)
    bases = registry.by_ids(connection, {row.base_id for row in rows})
    by_state = GaugeMetricFamily("sumika_base_engines", "Engines of a base by state", labels=["base", "state"])
    memory = GaugeMetricFamily(
        "sumika_engine_memory_bytes", "What a base's engines take, of the GPU's memory or of main memory", labels=["base"]
    )
    restarts = GaugeMetricFamily(
        "sumika_engine_restarts", "Times that the engines of a base were started again since they last ran well", labels=["base"]
    )
    for base_id, version in bases.items():
        name, own = str(version.ref), [row for row in rows if row.base_id == base_id]
        for state in STATES:
            by_state.add_metric([name, state], sum(row.state == state for row in own))
        memory.add_metric([name], sum(row.memory or 0 for row in own))
        restarts.add_metric([name], sum(row.restarts for row in own))
    workers = GaugeMetricFamily("sumika_gateway_workers", "Gateway workers that were heard of within ten seconds")
    heard = (clock.parse(worker.beat_at) for worker in engines.list_gateways(connection))
    workers.add_metric([], sum((datetime.now(UTC) - at).total_seconds() < 10 for at in heard))
    yield from (by_state, memory, restarts, workers)


def _aliases(connection: Connection) -> Iterator[Metric]:
    pointed = aliases.list_all(connection)
    versions = registry.by_ids(connection, {a.version_id for a in pointed} | {a.canary_id for a in pointed if a.canary_id})
    serves = GaugeMetricFamily("sumika_alias_version", "1 for the version that an alias leads to", labels=["alias", "version"])
    share = GaugeMetricFamily(
        "sumika_alias_canary_ratio", "Share of an alias's keys that another version answers", labels=["alias", "version"]
    )
    for alias in pointed:
        serves.add_metric([alias.name, str(versions[alias.version_id].ref)], 1)
        if alias.canary_id:
            share.add_metric([alias.name, str(versions[alias.canary_id].ref)], (alias.canary_share or 0) / 100)
    yield from (serves, share)


def _moves(connection: Connection) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "sumika_moves", "Moves of aliases to versions, by kind and by how they ended", labels=["kind", "state"]
    )
    for kind, state, count in connection.execute(select(_m.kind, _m.state, func.count()).group_by(_m.kind, _m.state)):
        ended.add_metric([kind, state], count)
    waiting = GaugeMetricFamily("sumika_move_open_seconds", "Age of the oldest move that has not ended")
    oldest = connection.scalar(select(func.min(_m.asked_at)).where(_m.state == "open"))
    waiting.add_metric([], _age(oldest))
    taken = SummaryMetricFamily(
        "sumika_move_seconds", "From the command to the alias at its new version, of the last 1,000 moves", labels=["kind"]
    )
    seconds: dict[str, list[float]] = {}
    done = select(_m.kind, _m.asked_at, _m.ended_at).where(_m.state == "done").order_by(_m.id.desc()).limit(1_000)
    for kind, asked_at, ended_at in connection.execute(done):
        seconds.setdefault(kind, []).append((clock.parse(ended_at) - clock.parse(asked_at)).total_seconds())
    for kind, values in sorted(seconds.items()):
        taken.add_metric([kind], count_value=len(values), sum_value=sum(values))
    yield from (ended, waiting, taken)


def _jobs(connection: Connection, home: Home) -> Iterator[Metric]:
    found = jobs.list_all(connection)
    states = GaugeMetricFamily("sumika_jobs", "Training jobs by state", labels=["state"])
    counted = Counter(job.state for job in found)
    for state in get_args(jobs.State):
        states.add_metric([state], counted[state])
    part = GaugeMetricFamily("sumika_job_progress_ratio", "How much of a running job is done", labels=["job"])
    rate = GaugeMetricFamily("sumika_job_tokens_per_second", "Tokens that a running job learns from in a second", labels=["job"])
    for job in (job for job in found if job.state == "running"):
        told, name = runfiles.progress(home.runs / job.run), f"{job.name}-{job.id}"
        if told.get("steps"):
            part.add_metric([name], told.get("step", 0) / told["steps"])
        if told.get("tokens_per_second") is not None:
            rate.add_metric([name], told["tokens_per_second"])
    yield from (states, part, rate)


def _audit(connection: Connection, home: Home) -> Iterator[Metric]:
    head, last = chain.head(connection), checkpoints.last(home)
    rows = CounterMetricFamily("sumika_audit_rows", "Rows that were ever written to the audit log")
    rows.add_metric([], head.seq)
    unsigned = GaugeMetricFamily("sumika_audit_unsigned_rows", "Rows of the audit log that no checkpoint vouches for yet")
    unsigned.add_metric([], head.seq - (last.seq if last else 0))
    waiting = GaugeMetricFamily("sumika_usage_waiting_seconds", "Age of the oldest usage that is in no table yet")
    journals = [path.stat().st_mtime for path in home.usage.glob("*") if path.stat().st_size]
    waiting.add_metric([], max(0.0, time.time() - min(journals)) if journals else 0.0)
    yield from (rows, unsigned, waiting)


def _disk(home: Home) -> Iterator[Metric]:
    disk = shutil.disk_usage(home.root)
    for name, told, value in (("free", "Free", disk.free), ("size", "Size", disk.total)):
        yield GaugeMetricFamily(f"sumika_disk_{name}_bytes", f"{told} of the disk that the home lies on", value=value)


def _gpus() -> Iterator[Metric]:
    """Where this process may ask the driver; in a container without the devices the supervisor's figures of memory are all there is."""
    total = GaugeMetricFamily("sumika_gpu_memory_bytes", "Memory of a GPU", labels=[_GPU])
    free = GaugeMetricFamily("sumika_gpu_memory_free_bytes", "Free memory of a GPU", labels=[_GPU])
    busy = GaugeMetricFamily("sumika_gpu_utilization_ratio", "Share of the last moments in which a GPU worked", labels=[_GPU])
    with suppress(pynvml.NVMLError):
        for pool in pools.gpus():
            total.add_metric([str(pool.gpu)], pool.total)
            free.add_metric([str(pool.gpu)], pool.free)
        with pools.nvml():
            for index in range(pynvml.nvmlDeviceGetCount()):
                rates = pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(index))
                busy.add_metric([str(index)], rates.gpu / 100)
    yield from (total, free, busy)


def _age(moment: str | None) -> float:
    return max(0.0, (datetime.now(UTC) - clock.parse(moment)).total_seconds()) if moment else 0.0
