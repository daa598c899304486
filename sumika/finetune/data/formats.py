"""From the fields of a row to a record, for each of the formats people have their data in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sumika.finetune.data import mojibake
from sumika.finetune.data.binary_tables import Unreadable
from sumika.finetune.data.bounds import LARGEST_CELL
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.record import Content, Conversation, Document, Messages, Preference
from sumika.finetune.data.settings import Format
from sumika.finetune.data.tables import parse
from sumika.models.errors import quoted

Fields = Mapping[str, Any]

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES = _ROLES | {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}


def record(format: Format, fields: Fields) -> Content:
    """The record that `fields` are in `format`.

    Raises:
        DataError: what is missing or wrong, and what to do.
    """
    made = _READERS[format](fields)
    for where, text in made.texts():
        try:
            mojibake.refuse(text)
        except DataError as error:
            raise DataError(f"{where}: {error.en}", f"{where}: {error.ja}") from None
        if len(text) > LARGEST_CELL:
            raise DataError(f"{where} is longer than {LARGEST_CELL:,} characters; split it", f"{where} が {LARGEST_CELL:,} 文字を超えています。分割してください")  # fmt: skip
    return made


def question(fields: Fields) -> Conversation | None:
    """What is asked, where the fields hold a question and no answer.

    Raises:
        DataError: the question is broken.
    """
    if any(_is_given(fields, name) for name in ("completion", "output", "chosen", "rejected", "text")):
        return None
    if _is_given(fields, "prompt"):
        return Conversation(_prompt(fields["prompt"], fields))
    if _is_given(fields, "instruction"):
        return Conversation([*_system(fields), *_history(fields), _user(_instruction(fields))])
    for name in ("messages", "conversations"):
        if _is_given(fields, name) and (messages := _messages(fields[name], name))[-1]["role"] == "user":
            return Conversation(messages)
    return None


def facts(fields: Fields) -> tuple[tuple[str, ...], ...]:
    """`facts`, a list of lists of accepted strings (in a table's cell: as JSON).

    Raises:
        DataError: it is missing or something else.
    """
    given = _decoded(fields.get("facts"))
    if not isinstance(given, list) or not given or not all(map(_is_requirement, given)):
        raise DataError(
            "'facts' must be a list of lists of strings: all outer ones must be met, each by any of its strings",
            "facts は文字列のリストのリストです(外側はすべて、内側はいずれかを満たすこと)",
        )
    return tuple(tuple(one) for one in given)


def _is_requirement(one: Any) -> bool:
    return isinstance(one, list) and bool(one) and all(isinstance(text, str) and text.strip() for text in one)


def _from_messages(fields: Fields) -> Content:
    return Conversation(_turns(_messages(fields["messages"], "messages")))


def _from_sharegpt(fields: Fields) -> Content:
    return Conversation(_turns([*_system(fields), *_messages(fields["conversations"], "conversations")]))


def _from_alpaca(fields: Fields) -> Content:
    asked = _user(_instruction(fields))
    return Conversation(_turns([*_system(fields), *_history(fields), asked, _assistant(_text(fields, "output"))]))


def _instruction(fields: Fields) -> str:
    """`input` is the text that the instruction is about; it follows after an empty line."""
    instruction = _text(fields, "instruction")
    return f"{instruction}\n\n{_text(fields, 'input')}" if _is_given(fields, "input") else instruction


def _from_prompt_completion(fields: Fields) -> Content:
    prompt = _prompt(fields["prompt"], fields)
    listed = _listed(fields["completion"])
    answer = [_assistant(_text(fields, "completion"))] if listed is None else _messages(listed, "completion")
    return Conversation(_turns([*prompt, *answer]))


def _from_text(fields: Fields) -> Content:
    return Document(_text(fields, "text"))


def _from_preference(fields: Fields) -> Content:
    chosen, rejected = (_answers(fields, name) for name in ("chosen", "rejected"))
    given = fields.get("prompt") if _is_given(fields, "prompt") else fields.get("conversations")
    prompt = _system(fields) + _common(chosen, rejected) if given is None else _prompt(given, fields)
    last = [one[len(prompt) :] if one[: len(prompt)] == prompt else one for one in (chosen, rejected)]
    for name, rest in zip(("chosen", "rejected"), last, strict=True):
        if [m["role"] for m in rest] != ["assistant"]:
            raise DataError(
                f"'{name}' must be one answer to the prompt; it holds {len(rest)} messages after it",
                f"{name} はプロンプトへの応答1つにしてください(後に続くメッセージが {len(rest)} 件あります)",
            )
    _turns([*prompt, *last[0]])
    better, worse = (rest[0]["content"] for rest in last)
    if better == worse:
        raise DataError("chosen and rejected are the same; a pair needs a better and a worse answer", "chosen と rejected が同じです。良い応答と悪い応答の組にしてください")  # fmt: skip
    return Preference(prompt, better, worse)


_READERS: dict[Format, Callable[[Fields], Content]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "prompt_completion": _from_prompt_completion,
    "text": _from_text,
    "preference": _from_preference,
}


def _prompt(value: Any, fields: Fields) -> Messages:
    listed = _listed(value)
    asked = [_user(_text(fields, "prompt"))] if listed is None else _messages(listed, "prompt")
    return [*_system(fields), *asked]


def _answers(fields: Fields, name: str) -> Messages:
    listed = _listed(fields.get(name))
    return [_assistant(_text(fields, name))] if listed is None else _messages(listed, name)


def _common(chosen: Messages, rejected: Messages) -> Messages:
    """Where no prompt is given, what both conversations begin with is the prompt."""
    count = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    if count == 0:
        raise DataError(
            "'prompt' is missing, and chosen and rejected do not begin with the same messages; add a prompt",
            "prompt がなく、chosen と rejected の始まりも異なります。prompt を加えてください",
        )
    return chosen[: min(count, len(chosen) - 1, len(rejected) - 1)]


def _history(fields: Fields) -> Messages:
    """Alpaca's earlier turns, as LLaMA-Factory writes them: pairs of question and answer."""
    given = _decoded(fields.get("history")) or []
    if not isinstance(given, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in given
    ):
        raise DataError("'history' must be a list of [question, answer] pairs", "history は[質問, 応答]の組のリストです")
    return [turn for asked, answered in given for turn in (_user(asked), _assistant(answered))]


def _system(fields: Fields) -> Messages:
    return [{"role": "system", "content": _text(fields, "system")}] if _is_given(fields, "system") else []


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _is_given(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    return value is not None and not (isinstance(value, str) and not value.strip())


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if isinstance(value, Unreadable):
        raise value.error()
    if value is not None and not isinstance(value, str):
        raise DataError(f"'{name}' must be text; put it in quotes", f"{name} は文字列にしてください(引用符で囲む)")
    if value is None or not value.strip():
        raise DataError(f"'{name}' is missing or empty; fill it in, or take the row out", f"{name} がないか空です。記入するか、行を削除してください")  # fmt: skip
    return value


def _decoded(value: Any) -> Any:
    """The list that a table's cell holds as JSON, in a column that holds nothing else."""
    return parse(value) if isinstance(value, str) and value.lstrip().startswith("[") else value


def _listed(value: Any) -> list[Any] | None:
    """The messages that stand where plain text may stand too; JSON that is no list of messages is text like any other."""
    if isinstance(value, str):
        if not value.lstrip().startswith(("[{", '{"')):
            return None
        try:
            value = parse(value)
        except DataError:
            return None
        if not all(_is_message(one) for one in (value if isinstance(value, list) else [value])):
            return None
    return [value] if isinstance(value, dict) else value if isinstance(value, list) else None


def _is_message(one: Any) -> bool:
    return isinstance(one, dict) and ({"role", "content"} <= one.keys() or {"from", "value"} <= one.keys())


def _messages(value: Any, name: str) -> Messages:
    """A list of {role, content} or ShareGPT's {from, value}, checked one by one."""
    value = _decoded(value)
    if not isinstance(value, list) or not value:
        raise DataError(
            f"'{name}' is missing or empty; it is a list of {{role, content}}", f"{name} がないか空です。{{role, content}} のリストにしてください"
        )  # fmt: skip
    return [_message(one, number) for number, one in enumerate(value, start=1)]


def _message(given: Any, number: int) -> dict[str, str]:
    if not isinstance(given, dict):
        raise DataError(f"message {number}: is no object; it holds role and content", f"メッセージ {number}: role と content を持つオブジェクトにしてください")  # fmt: skip
    message = {name: value for name, value in given.items() if value is not None}
    role_key, text_key, roles = ("from", "value", _SHAREGPT_ROLES) if "from" in message else ("role", "content", _ROLES)
    role = message.get(role_key)
    if not isinstance(role, str) or role not in roles:
        raise DataError(
            f"message {number}: {role_key} must be one of {', '.join(roles)}", f"メッセージ {number}: {role_key} は {', '.join(roles)} のいずれかです"
        )  # fmt: skip
    if strange := sorted(message.keys() - {role_key, text_key}):
        raise DataError(
            f"message {number}: '{quoted(strange[0])}' is not trained on; a message holds {role_key} and {text_key} alone",
            f"メッセージ {number}: 「{quoted(strange[0])}」は学習に使えません。{role_key} と {text_key} だけにしてください",
        )
    text = message.get(text_key)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"message {number}: {text_key} is missing or empty; fill it in, or take the row out",
            f"メッセージ {number}: {text_key} がないか空です。記入するか、行を削除してください",
        )
    return {"role": roles[role], "content": text}


def _turns(messages: Messages) -> Messages:
    turns = [m["role"] for m in messages]
    expected = ["system"] * (turns[0] == "system")
    expected += ["user", "assistant"] * ((len(turns) - len(expected)) // 2)
    if turns != expected or "assistant" not in turns:
        shown = ", ".join(turns[:8]) + (" …" if len(turns) > 8 else "")
        raise DataError(
            f"roles are {shown}; after an optional system they must be user, assistant, user, … and end with assistant",
            f"roleの並びが {shown} です。system(任意)の後は user、assistant の繰り返しで、assistant で終えてください",
        )
    return messages
