"""Anthropic's blocks as vLLM joins them, so that no control token is spelled by two of them."""

from __future__ import annotations

from collections.abc import Sequence

from sumika.serving.requests.plain import Body, Plain
from sumika.serving.requests.tools import part_tool

# A block that Claude Code puts first: another with each request, so vLLM leaves it out for its prefix cache.
_BILLING = "x-anthropic-billing-header"


def part_conversation(body: Body, plain: Plain, systems: Plain) -> None:
    """`body`, each run of blocks in it one block. `systems` are the system's texts alone: where a template takes them at its
    beginning only, vLLM puts them side by side there."""
    for tool in body.get("tools", ()):
        part_tool(tool, plain, "input_schema")
    if "system" in body:
        body["system"] = _system(body["system"], plain, systems)
    for message in body["messages"]:
        if message["role"] == "system":
            message["content"] = _system(message["content"], plain, systems)
        elif isinstance(message["content"], str):
            plain.texts(message, "content")
        else:
            message["content"] = _blocks(message["content"], plain)


def _system(content: str | list[Body], plain: Plain, systems: Plain) -> str:
    if isinstance(content, list):
        content = "".join(block["text"] for block in content if not block["text"].startswith(_BILLING))
    return systems.text(plain.text(content))


def _blocks(blocks: Sequence[Body], plain: Plain) -> list[Body]:
    kept = _one_of(_one_of(blocks, "thinking", "thinking", ""), "text", "text", "\n")
    for block in kept:
        plain.texts(block, "thinking", "text", "name")
        plain.names(block, "id", "tool_use_id")
        if "input" in block:
            block["input"] = plain.value(block["input"])
        if isinstance(content := block.get("content"), list):
            block["content"] = plain.joined(content)
        else:
            plain.texts(block, "content")
    return kept


def _one_of(blocks: Sequence[Body], kind: str, field: str, between: str) -> list[Body]:
    """`blocks` with all texts of one kind in the first block of that kind; empty ones are passed over, as vLLM does."""
    texts = [block[field] for block in blocks if block["type"] == kind and block[field]]
    if len(texts) < 2:
        return list(blocks)
    first = next(block for block in blocks if block["type"] == kind)
    first[field] = between.join(texts)
    return [block for block in blocks if block["type"] != kind or block is first]
