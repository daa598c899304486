"""An order made ready: its rows in the run's folder, its job's YAML with every key, and the check of both."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from sumika.finetune import checks, runs
from sumika.finetune.config import JobConfig, Lora, Train
from sumika.finetune.data import inputs
from sumika.finetune.data.inputs import Inputs
from sumika.finetune.ordered import rows
from sumika.models import orders, runfiles, yamlfile
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.orders import Asked
from sumika.models.settings import EngineSettings
from sumika.models.shelf import Shelf
from sumika.models.store import Store
from sumika.models.yamlproblems import Document

# As the gateway reckons: a Japanese character is three bytes of UTF-8 and about one token.
_BYTES_PER_TOKEN = 3
_PART = "held-out"
_LEAST_TOKENS, _MOST_TOKENS = 16, 2**24


def prepare(folder: Path, store: Store, home: Home, engine: EngineSettings) -> None:
    """Leave in a run's folder what it is trained from, and in `check.json` what the check found: figures, or `error`.

    Raises:
        SumikaError: what is wrong with the order or its data; `param` names the file where it is one's.
    """
    asked = orders.read(folder)
    if asked is None:
        raise SumikaError(
            "not_found",
            f"{folder.name} was not ordered through the API.",
            f"{folder.name} はAPIからの依頼ではありません。",
            status=404,
        )
    try:
        config = _config(asked, folder, _lay_out(asked, folder, Shelf(home.files)), engine)
        checked = checks.check(config, store, home, engine=engine)
    except SumikaError as error:
        told = {"code": error.code, "en": _by_id(error.en, asked, home), "ja": _by_id(error.ja, asked, home)}
        param = error.param or _blamed(error.en, asked)
        runs.keep(folder, runfiles.CHECKED, {"error": told | ({"param": param} if param is not None else {})})
        raise
    runs.keep_config(folder, config)
    inputs.keep(folder, config.inputs, checked.sha256)
    runs.keep(folder, runfiles.CHECKED, checked.figures())


def _lay_out(asked: Asked, folder: Path, shelf: Shelf) -> float:
    """Write the rows; bytes of one of those that are trained on, on average."""
    for name in (rows.TRAIN, rows.HELD_OUT):
        with suppress(FileNotFoundError):  # of a worker that was killed
            (folder / name).unlink()
    source = shelf.path(asked.training_file)
    try:
        if asked.validation_file is None:
            count = rows.split(source, folder, asked.method, asked.seed)
        else:
            count = rows.turned(source, folder / rows.TRAIN, asked.method, held_out=False)
            rows.turned(shelf.path(asked.validation_file), folder / rows.HELD_OUT, asked.method, held_out=True)
    except FileNotFoundError as error:
        raise SumikaError(
            "file_missing", "An uploaded file of this job is no longer there; upload it again and make a new job.",
            "アップロードしたファイルがありません。アップロードし直して、新しいジョブを作成してください。", status=404,
        ) from error  # fmt: skip
    return (folder / rows.TRAIN).stat().st_size / max(1, count)


def _config(asked: Asked, folder: Path, row_bytes: float, engine: EngineSettings) -> JobConfig:
    """Raises SumikaError `bad_config`."""
    rank = min(Lora().r, engine.max_lora_rank)
    train: dict[str, Any] = {}
    if asked.epochs is not None:
        train["epochs"] = asked.epochs
    if asked.rate is not None:
        train["learning_rate"] = Train().learning_rate * asked.rate
    if asked.rows is not None:
        tokens = round(asked.rows * row_bytes / _BYTES_PER_TOKEN)
        train["batch_tokens"] = min(_MOST_TOKENS, max(_LEAST_TOKENS, tokens))
    if asked.beta is not None:
        train["beta"] = asked.beta
    data = {
        "job": {"name": asked.name, "seed": asked.seed, "method": "dpo" if asked.method == "dpo" else "sft"},
        "base": {"version": asked.model},
        "data": {"train": asked.training_file, "encoding": "utf-8"},
        "lora": {"r": rank, "alpha": 2 * rank},
        "train": train,
        "evaluate": {"held_out": _held_out(asked)},
        "serve": {"alias": asked.name, "max_lora_rank": engine.max_lora_rank},
    }
    paths = {Path(asked.training_file): folder / rows.TRAIN, Path(_held_out(asked)): folder / rows.HELD_OUT}
    document = Document(folder / runfiles.ORDER, data, {})
    return yamlfile.check(JobConfig, document, paths).with_inputs(Inputs(paths, from_network=True))


def _held_out(asked: Asked) -> str:
    """What the job calls its held-out rows: the file that they came in, or a part of the one that is trained on."""
    same = asked.validation_file in (None, asked.training_file)
    return f"{asked.training_file}/{_PART}" if same else str(asked.validation_file)


def _by_id(text: str, asked: Asked, home: Home) -> str:
    """Files as the client knows them, and no folder of this machine."""
    return home.hidden(text.replace(f"{asked.training_file}/{_PART}", asked.training_file))


def _blamed(text: str, asked: Asked) -> str | None:
    held = _held_out(asked)
    if asked.training_file in text.replace(held, ""):
        return "training_file"
    return ("training_file" if asked.validation_file is None else "validation_file") if held in text else None
