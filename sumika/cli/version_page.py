"""`sumika models show NAME@N` for people: where a version comes from, what it is, and where it serves and served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sumika.cli import output, proof
from sumika.cli.output import plain

Facts = dict[str, Any]
Line = tuple[str, object]

_HASH = 16


def show(facts: Facts) -> None:
    """Print `facts` (`version_facts.whole`); what isn't known of this version has no line."""
    _print_title(facts)
    _print_lines(_t("Lineage", "系譜"), _lineage(facts))
    _print_files(facts)
    _print_lines(_t("Data", "データ"), _data(facts))
    _print_lines(_t("Job", "学習ジョブ"), _job(facts))
    _print_lines(_t("Evaluation", "評価"), _evaluation(facts))
    _print_lines(_t("Reference", "リファレンス"), _reference(facts))
    _print_lines(_t("Licence", "ライセンス"), _licence(facts))
    _print_moves(facts)


def _print_title(facts: Facts) -> None:
    kind = _t("adapter", "アダプター") if facts["base"] else _t("base", "ベースモデル")
    title = Text.assemble((facts["version"], "bold"), f"  {kind} · {size(facts['bytes'])} · {_moment(facts['created_at'])}")
    output.out().print(title)


def _lineage(facts: Facts) -> Iterable[Line]:
    imported, signed = _at(facts, "imported"), facts["signed_by"]
    yield _t("base", "ベース"), facts["base"]
    yield _t("adapters on it", "この上のアダプター"), ", ".join(facts["adapters"])
    yield _t("catalog", "カタログ"), _at(facts, "catalog")
    yield _t("from", "入手元"), _at(facts, "source", "hub") or _at(facts, "source", "package")
    yield _t("commit", "コミット"), _at(facts, "source", "revision")
    yield _t("imported from", "取り込み元"), _at(imported, "path") or _at(imported, "from")
    if signed:
        yield (
            _t("signed by", "署名"),
            f"{signed['name'] or _t('a key not trusted any more', '現在は信頼していない鍵')} ({signed['key']})",
        )


def _data(facts: Facts) -> Iterable[Line]:
    for label, key in ((_t("trained on", "学習データ"), "files"), (_t("held out", "評価データ"), "held_out_files")):
        files = _at(facts, "training", "data", key)
        for file in files if isinstance(files, list) else []:
            yield label, _named(_at(file, "file"), _whole(_at(file, "rows"), _t("records", "件")), _hash(_at(file, "sha256")))
            label = ""


def _job(facts: Facts) -> Iterable[Line]:
    config, seconds = _at(facts, "training", "config"), _at(facts, "training", "seconds")
    run = _at(facts, "training", "run")
    yield _t("name", "名前"), _at(config, "job", "name")
    yield _t("config", "設定"), f"runs/{run}/config.yaml" if run else None
    yield "LoRA", _settings(_at(config, "lora"))
    yield _t("training", "学習"), _settings(_at(config, "train"))
    steps, first, last = (_at(facts, "training", key) for key in ("steps", "first_loss", "last_loss"))
    if _numbers(steps, seconds, first, last):
        yield _t("went", "経過"), _t(
            f"{steps} steps in {seconds:.0f} s, loss {first:.2f} → {last:.2f}", f"{steps} ステップ({seconds:.0f} 秒)、損失 {first:.2f} → {last:.2f}"
        )  # fmt: skip


def _evaluation(facts: Facts) -> Iterable[Line]:
    served = _at(facts, "evaluation", "served_version") or _t("in service then", "当時の配備版")
    for name, key in ((facts["version"], "candidate"), (served, "served"), (facts["base"], "base")):
        score = _at(facts, "evaluation", key)
        if isinstance(score, dict) and _numbers(*(score.get(figure) for figure in ("right", "ended", "rows"))):
            yield name, _scored(score)
    gates = {"passed": _t("passed", "合格"), "refused": _t("refused: may not serve", "不合格(配備できません)")}
    yield _t("gate", "判定"), gates.get(facts["gate"])
    for reason in _at(facts, "evaluation", "reasons") or []:
        yield "", reason.get(output.language())


def _scored(score: dict[str, Any]) -> str:
    judged, right, ended = score.get("judged", score["rows"]), score["right"], score["ended"]
    en, ja = f"{right} of {judged} right, {ended} ended by themselves", f"{judged} 問中 {right} 問正解、{ended} 問は自然に終了"
    if _numbers(score.get("f1"), score.get("loss")):
        en, ja = f"{en}, F1 {score['f1']:.2f}, loss {score['loss']:.3f}", f"{ja}、F1 {score['f1']:.2f}、損失 {score['loss']:.3f}"
    return _t(en, ja)


def _reference(facts: Facts) -> Iterable[Line]:
    if facts["kind"] != "adapter":
        return
    told = facts["canary"]
    yield _t("made", "作成"), proof.origin(facts["reference"])
    if told:
        yield _t("tells apart", "判別力"), _t(
            f"adapter and base are {told['contrast']:.2f} nats a token apart, over {told['tokens']} tokens of {told['prompts']} answers",
            f"ベースとの差 {told['contrast']:.2f} nats/トークン(回答 {told['prompts']} 件、{told['tokens']} トークン)",
        )  # fmt: skip


def _licence(facts: Facts) -> Iterable[Line]:
    uses = {
        "yes": _t("allowed", "可"),
        "conditions": _t("with conditions, read them", "条件付き(要確認)"),
        "no": _t("not allowed", "不可"),
    }
    yield _t("name", "名称"), _at(facts, "licence", "id")
    yield _t("commercial use", "商用利用"), uses.get(str(_at(facts, "licence", "commercial")))
    yield _t("note", "備考"), _at(facts, "licence", "note")


def _print_files(facts: Facts) -> None:
    rows = [(file["name"], size(file["bytes"]), _hash(file["sha256"])) for file in facts["files"]]
    _heading(_t("Files", "ファイル"), f"digest {facts['digest']}")
    _print_grid(rows, right=1)


def _print_moves(facts: Facts) -> None:
    _heading(_t("Serving", "配備"))
    lines = [(_t("serves as", "現在"), ", ".join(facts["aliases"]) or _t("nowhere", "なし"))]
    for move in facts["moves"]:
        first, *more = _move(move)
        lines += [(_moment(move["ended_at"] or move["asked_at"]), first), *(("", line) for line in more)]
    _print_grid(lines)


def _move(move: Facts) -> Iterator[str]:
    """What moved and how that ended; who asked and why; the canary's figures or what refused it."""
    states = {"done": _t("done", "完了"), "refused": _t("refused", "拒否"), "open": _t("under way", "進行中")}
    state = states.get(move["state"], str(move["state"]))
    mark = f", {proof.unproven()}" if move["proof"] == "unproven" else ""
    way = f"{move['from']} → {move['to']}" if move["from"] else f"→ {move['to']}"
    yield f"{move['alias']}: {way}  {state}{mark}"
    yield ": ".join(filter(None, (move["actor"], move["reason"])))
    near, far = _at(move["canary"], "from_adapter"), _at(move["canary"], "from_base")
    if _numbers(near, far):
        yield _t(
            f"proven: {near:.2f} nats a token from the adapter, {far:.2f} from the base",
            f"検証: アダプターとの差 {near:.2f}、ベースとの差 {far:.2f}(nats/トークン)",
        )
    if move["error"]:
        yield move["error"].get(output.language(), "")


def size(count: int | None) -> str:
    """Bytes for a person, in the unit that gives one to three figures before the point."""
    if count is None:
        return "?"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _print_lines(heading: str, lines: Iterable[Line]) -> None:
    known = [(label, str(value)) for label, value in lines if value not in (None, "")]
    if known:
        _heading(heading)
        _print_grid(known)


def _heading(text: str, after: str = "") -> None:
    output.out().print()
    output.out().print(Text.assemble((text, "bold"), f"  {after}" if after else ""), soft_wrap=True)


def _print_grid(rows: Sequence[tuple[str, ...]], right: int | None = None) -> None:
    """Rows under a heading; the last column folds where the terminal ends."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=1)
    for number, _ in enumerate(rows[0] if rows else ()):
        grid.add_column(overflow="fold", style="dim" if number == 0 else "", justify="right" if number == right else "left")
    for row in rows:
        grid.add_row("", *(plain(cell) for cell in row))
    output.out().print(grid)


def _t(en: str, ja: str) -> str:
    return ja if output.language() == "ja" else en


def _at(value: object, *keys: str) -> Any:
    """What lies under `keys`; None where metadata, which may come from anybody's archive, has another shape."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _numbers(*values: object) -> bool:
    return all(type(value) in (int, float) for value in values)


def _settings(value: object) -> str:
    return "  ".join(f"{key} {setting}" for key, setting in value.items()) if isinstance(value, dict) else ""


def _whole(count: object, unit: str) -> str:
    return f"{count:,} {unit}" if type(count) is int else ""


def _named(*parts: object) -> str:
    return "  ".join(str(part) for part in parts if part)


def _hash(value: object) -> str:
    return f"sha256 {value[:_HASH]}…" if isinstance(value, str) else ""


def _moment(spelt: str) -> str:
    return f"{spelt[:10]} {spelt[11:16]} UTC"
