"""For the OpenAPI document: each inference endpoint in words, and requests to it that can be sent as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sumika.serving import answers


@dataclass(frozen=True, slots=True)
class Example:
    title: str
    text: str
    answer: type[BaseModel]
    bodies: Mapping[str, dict[str, Any]]


_QUESTION = {"role": "user", "content": "有給休暇の申請方法を教えてください。"}
_CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "都市名"}}, "required": ["city"]}
_TICKET = {
    "type": "object", "properties": {"title": {"type": "string"}, "urgency": {"enum": ["高", "中", "低"]}}, "required": ["title", "urgency"],
}  # fmt: skip

EXAMPLES: Mapping[str, Example] = {
    "/v1/chat/completions": Example(
        "会話の続きを生成する", "OpenAI's chat completions. Tools need a base with a tool parser.", answers.ChatAnswer,
        {
            "質問": {"model": "sakura-faq", "messages": [{"role": "system", "content": "社内の質問に短く答えてください。"}, _QUESTION]},
            "ストリーム": {"model": "sakura-faq", "messages": [_QUESTION], "stream": True, "stream_options": {"include_usage": True}},
            "JSONで答える": {
                "model": "sakura-faq", "messages": [{"role": "user", "content": "プリンターが動かない。至急。"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "ticket", "schema": _TICKET, "strict": True}},
            },
            "ツール": {
                "model": "sakura-agent", "messages": [{"role": "user", "content": "東京の天気は?"}],
                "tools": [{"type": "function", "function": {"name": "weather", "description": "天気を調べる", "parameters": _CITY}}],
            },
        },
    ),
    "/v1/completions": Example(
        "文章の続きを生成する", "OpenAI's older completions: no chat template is applied.", answers.CompletionAnswer,
        {"続き": {"model": "sakura-faq", "prompt": "日本の首都は", "max_tokens": 16}},
    ),
    "/v1/embeddings": Example(
        "文章をベクトルにする", "For aliases of embedding models. Send text; token ids are refused.", answers.EmbeddingAnswer,
        {"文書": {"model": "ruri", "input": ["検索文書: 有給休暇は3営業日前までに申請します。", "検索クエリ: 休みの取り方"]}},
    ),
    "/v1/rerank": Example(
        "文書を質問に近い順に並べる", "For aliases of reranking models, in Jina's shape.", answers.RerankAnswer,
        {"検索結果": {"model": "ruri-reranker", "query": "休みの取り方", "documents": ["社員食堂の営業時間", "有給休暇の申請"], "top_n": 1}},
    ),
    "/v1/tokenize": Example(
        "トークンに分ける", "A text, or a conversation as the chat template writes it. Costs no tokens.", answers.TokenizeAnswer,
        {
            "文章": {"model": "sakura-faq", "prompt": "こんにちは", "return_token_strs": True},
            "会話": {"model": "sakura-faq", "messages": [_QUESTION], "add_generation_prompt": True},
        },
    ),
    "/v1/detokenize": Example(
        "トークンを文章に戻す", "Costs no tokens.", answers.DetokenizeAnswer, {"番号": {"model": "sakura-faq", "tokens": [1, 2, 3]}}
    ),
    "/v1/responses": Example(
        "会話の続きを生成する(Responses API)", "OpenAI's responses. Nothing is kept between requests: send the whole conversation as `input`.",
        answers.ResponseAnswer,
        {
            "質問": {"model": "sakura-faq", "instructions": "短く答えてください。", "input": "名刺はどこで注文できますか。", "store": False},
            "ツール": {
                "model": "sakura-agent", "input": [{"role": "user", "content": "東京の天気は?"}],
                "tools": [{"type": "function", "name": "weather", "parameters": _CITY}],
            },
        },
    ),
    "/v1/messages": Example(
        "会話の続きを生成する(Anthropic形式)", "Anthropic's messages; a key may be sent as `x-api-key`.", answers.MessageAnswer,
        {"質問": {"model": "sakura-faq", "max_tokens": 256, "system": "短く答えてください。", "messages": [_QUESTION]}},
    ),
    "/v1/messages/count_tokens": Example(
        "トークン数を数える(Anthropic形式)", "Costs no tokens.", answers.CountAnswer, {"会話": {"model": "sakura-faq", "messages": [_QUESTION]}}
    ),
}  # fmt: skip
