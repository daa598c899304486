"""What a training leaves in its run's folder is read by processes that serve every team: whatever it is, it is read or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sumika.models import runfiles

READ = {
    runfiles.PROGRESS: (runfiles.progress, {}), runfiles.RESULT: (runfiles.result, None), runfiles.DATA: (runfiles.data, None),
    runfiles.INPUTS: (runfiles.inputs, {}), runfiles.CHECKED: (runfiles.checked, None), runfiles.METRICS: (runfiles.metrics, []),
    runfiles.CONFIG: (runfiles.config, ""), runfiles.LOG: (lambda run: runfiles.tail(run, 5), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.parent.parent / "secret")])
def test_pipe_folder_and_link_are_not_there(tmp_path: Path, name: str, make: Callable[[Path], object]) -> None:
    (tmp_path / "secret").write_text('{"secret": 1}')
    run = tmp_path / "run"
    run.mkdir()
    make(run / name)
    read, nothing = READ[name]
    assert read(run) == nothing


@pytest.mark.parametrize("text", ["{", "[1]", "null", "[" * 100_000, b"\xff\xfe", ""])
@pytest.mark.parametrize("name", sorted(set(READ) - {runfiles.CONFIG, runfiles.LOG}))
def test_text_that_is_no_object_is_not_there(tmp_path: Path, name: str, text: str | bytes) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    read, nothing = READ[name]
    assert read(tmp_path) == nothing


def test_longer_file_than_any_of_ours_is_not_read_into_memory(tmp_path: Path) -> None:
    for name in (runfiles.RESULT, runfiles.METRICS, runfiles.LOG):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
    assert runfiles.result(tmp_path) is None and runfiles.metrics(tmp_path) == []
    assert len(runfiles.tail(tmp_path, 5)) <= 2**15


def test_figures_alone_are_progress_and_steps(tmp_path: Path) -> None:
    (tmp_path / runfiles.PROGRESS).write_text(
        '{"state": "training", "step": 3, "steps": "9", "eta_s": NaN, "loss": [1], "epoch": null}'
    )
    assert runfiles.progress(tmp_path) == {"state": "training", "step": 3, "eta_s": None, "epoch": None}
    (tmp_path / runfiles.METRICS).write_text('{"step": 1, "loss": 0.5}\n{"step": "x"}\n{"loss": 1}\n[]\n{"step": 2, "lo')
    assert runfiles.metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_error_of_a_check_is_texts_in_both_languages(tmp_path: Path) -> None:
    for told, read in (
        ('{"error": {"en": "a", "ja": "b", "code": "c", "more": 1}}', {"error": {"en": "a", "ja": "b", "code": "c"}}),
        ('{"error": {"en": 1, "ja": "b"}}', None),
        ('{"error": "x"}', None),
        ('{"memory_bytes": "x"}', None),
        ('{"memory_bytes": 5, "rows": 3}', {"memory_bytes": 5, "rows": 3}),
    ):
        (tmp_path / runfiles.CHECKED).write_text(told)
        assert runfiles.checked(tmp_path) == read


def test_folder_that_is_no_step_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("step-2", "step-10", "step-x", "step-"):
        (tmp_path / runfiles.CHECKPOINTS / name).mkdir(parents=True)
    assert [step for step, _ in runfiles.checkpoints(tmp_path)] == [2, 10]
