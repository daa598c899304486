from __future__ import annotations

from sumika.models.settings import EngineSettings
from sumika.serving.lora_slots import Slots, choose, slot_bytes

GIB = 2**30


def test_slot_of_one_matrix_is_rank_times_both_sides() -> None:
    assert slot_bytes([(2048, 640)], 16) == 16 * (2048 + 640) * 2
    assert slot_bytes([(2048, 640), (640, 2048)], 16, 4) == 2 * 16 * (2048 + 640) * 4


def test_small_base_gets_eight_slots_and_as_many_in_memory_as_a_tenth_of_it_holds() -> None:
    assert choose(EngineSettings(), 16 * 2**20, 24 * GIB, 24 * GIB) == Slots(8, 153)
    assert choose(EngineSettings(), 2**20, 80 * GIB, 512 * GIB) == Slots(8, 256)


def test_large_rank_on_a_small_gpu_gets_fewer_but_never_none() -> None:
    assert choose(EngineSettings(), 400 * 2**20, 24 * GIB, 64 * GIB) == Slots(3, 16)
    assert choose(EngineSettings(), 8 * GIB, 24 * GIB, 16 * GIB) == Slots(1, 1)


def test_what_is_set_wins_and_memory_never_holds_fewer_than_the_device() -> None:
    assert choose(EngineSettings(max_loras=32, max_cpu_loras=500), 8 * GIB, GIB, GIB) == Slots(32, 500)
    assert choose(EngineSettings(max_loras=8), 8 * GIB, GIB, GIB) == Slots(8, 8)
    assert choose(EngineSettings(max_cpu_loras=2), 2**20, 80 * GIB, 80 * GIB) == Slots(2, 2)
