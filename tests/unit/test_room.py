"""Room for engines: what is planned, what is measured, and which of the two decides."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sumika.models import pools
from sumika.models.errors import SumikaError
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.serving.memory import GpuMemory, MainMemory, Pool
from sumika.serving.process import ProcessId
from sumika.serving.room import GIB, Room, kv_bytes_per_token

PROCESS = ProcessId(1, "0")


@dataclass
class Card:
    """A meter whose pools a test fills and empties."""

    found: list[Pool]
    takes: int | None = None
    asked: list[str] = field(default_factory=list)

    def pools(self) -> list[Pool]:
        return self.found

    def host_free(self) -> int:
        return 0

    def taken(self, pool: Pool, engine: ProcessId) -> int | None:
        return self.takes


def gpu(free: float, index: int = 0, total: float = 80) -> Pool:
    return Pool(index, f"GPU-{index}", int(total * GIB), int(free * GIB))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of 10 GiB that take no disk, and 1 MiB of keys and values a token."""
    (tmp_path / "config.json").write_text(
        json.dumps({"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 256})
    )
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(10 * GIB)
    return tmp_path


def base(context: int = 1024) -> Version:
    meta = {"serve": {"max_model_len": context}}
    return Version(1, VersionRef("base", 1), "base", None, None, "f", "d", "none", meta, "")


def test_keys_and_values_of_a_token_are_what_the_shapes_say(folder: Path) -> None:
    assert kv_bytes_per_token(folder) == 2 * 2 * 32 * 32 * 256


def test_an_engine_is_given_half_where_half_does_so_that_another_fits_beside_it(folder: Path) -> None:
    room = Room(EngineSettings(), Card([gpu(80)]))
    assert room.claim("a", base(), folder).planned == int(0.85 * 80 * GIB) // 2
    assert room.lacking(base(), folder) is None


def test_an_engine_is_given_all_where_half_holds_too_few_requests_and_the_next_is_refused_with_numbers(folder: Path) -> None:
    card = Card([gpu(80)])
    room = Room(EngineSettings(), card)
    assert room.claim("a", base(context=8192), folder).share == pytest.approx(0.85)
    card.found = [gpu(12)]
    lacking = room.lacking(base(context=8192), folder)
    assert lacking is not None and lacking.code == "no_room" and "68.0 GiB of GPU 0, and 0.0 GiB of 80.0 GiB" in lacking.en
    assert room.lacking(base(context=8192), folder, without=["a"]) is not None, (
        "one that starts has taken nothing yet that its end would free"
    )
    room.settle("a", PROCESS)
    assert room.lacking(base(context=8192), folder, without=["a"]) is None


def test_model_that_does_not_fit_what_it_may_have_is_refused(folder: Path) -> None:
    for settings in (EngineSettings(gpu_memory_gib=11), EngineSettings(gpu_memory_gib=90)):
        with pytest.raises(SumikaError) as told:
            Room(settings, Card([gpu(80)])).claim("a", base(), folder)
        assert told.value.code == "no_room"


def test_what_others_take_of_the_card_counts(folder: Path) -> None:
    card = Card([gpu(20)])
    assert Room(EngineSettings(), card).lacking(base(), folder) is not None


def test_the_emptiest_card_is_taken(folder: Path) -> None:
    room = Room(EngineSettings(gpu_memory_gib=30), Card([gpu(80, 0), gpu(80, 1)]))
    assert [room.claim(name, base(), folder).pool.gpu for name in "abcd"] == [0, 1, 0, 1]
    assert room.lacking(base(), folder) is not None
    room.release("b")
    assert room.claim("e", base(), folder).pool.gpu == 1


def test_an_engine_that_takes_more_than_planned_is_believed_to(folder: Path) -> None:
    card = Card([gpu(80)], takes=40 * GIB)
    room = Room(EngineSettings(gpu_memory_gib=30), card)
    room.claim("a", base(), folder)
    assert room.settle("a", PROCESS) == (0, 40 * GIB)
    assert room.lacking(base(), folder) is not None, "68 less 40 is less than 30"


def test_what_an_adopted_engine_takes_is_in_its_row(folder: Path) -> None:
    room = Room(EngineSettings(gpu_memory_gib=40), Card([gpu(80)]))
    room.adopt("a", 0, 40 * GIB)
    assert room.lacking(base(), folder) is not None
    room.keep("a", 1 * GIB)
    assert room.lacking(base(), folder) is None, "it went to sleep"


def test_cpu_engine_is_planned_by_weights_and_cache_and_bounded_by_what_is_free(folder: Path) -> None:
    card = Card([Pool(None, "", 64 * GIB, 15 * GIB)])
    room = Room(EngineSettings(), card)
    assert room.claim("a", base(), folder).planned == 14 * GIB
    assert room.lacking(base(), folder) is not None, "while it starts it has not taken yet what it will"
    assert Room(EngineSettings(memory_gib=10), card).lacking(base(), folder) is not None


def test_main_memory_is_what_the_kernel_says_and_a_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_CGROUP", tmp_path)
    (machine,) = MainMemory().pools()
    assert 0 < machine.free <= machine.total and machine.gpu is None
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory.current").write_text("805306368\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 268435456\nactive_file 0\n")
    (container,) = MainMemory().pools()
    assert container.total == GIB and container.free == GIB // 2
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(64 * 2**20); print(); input()"], stdin=-1, stdout=-1, start_new_session=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    taken = MainMemory().taken(container, ProcessId.of(child.pid))
    child.kill()
    child.wait()
    assert taken is not None and 64 * 2**20 < taken < 128 * 2**20


@pytest.mark.parametrize(("visible", "ours"), [("", []), ("1", [1]), ("0,1", [0, 1]), ("GPU-ab", [1]), (None, [0, 1])])
def test_only_gpus_that_are_ours_are_used(visible: str | None, ours: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Nvml:
        """The few calls that are made, of a machine with two cards."""

        @staticmethod
        def nvmlInit() -> None: ...
        @staticmethod
        def nvmlShutdown() -> None: ...
        @staticmethod
        def nvmlDeviceGetCount() -> int:
            return 2

        @staticmethod
        def nvmlDeviceGetHandleByIndex(index: int) -> int:
            return index

        @staticmethod
        def nvmlDeviceGetUUID(handle: int) -> str:
            return ("GPU-00ff", "GPU-abcd")[handle]

        @staticmethod
        def nvmlDeviceGetMemoryInfo(handle: int) -> Pool:
            return Pool(handle, "", 80 * GIB, 70 * GIB)

    monkeypatch.setattr(pools, "pynvml", Nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [pool.gpu for pool in GpuMemory(visible).pools()] == ours
