"""Tiny tokenizers with the tokens and a chat template of each family that the catalog names, and prompts as vLLM makes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import construct_input_messages, construct_tool_dicts
from vllm.renderers import hf
from vllm.renderers.chat_utils import parse_chat_messages

from sumika.models import controls
from sumika.models.control_text import ControlText

TEMPLATES = Path(__file__).parent / "data" / "templates"
_MODEL: Any = SimpleNamespace(multimodal_config=None, is_multimodal_model=False, enable_prompt_embeds=False)


@dataclass(frozen=True)
class Family:
    """`special`: begin and end of text first; `marks`: tokens that are not special; `labels`: what a role is called in text."""

    name: str
    special: tuple[str, ...]
    marks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    system: bool = True
    tools: bool = False
    template: str = ""

    @property
    def source(self) -> str:
        return Path(self.template or TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")

    @property
    def replaced(self) -> list[str]:
        """What its template's filters look for."""
        return re.findall(r"replace\(['\"](.+?)['\"],", self.source)


_CHATML = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
_CALLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>")
_GEMMA = ("<bos>", "<end_of_turn>", "<start_of_turn>", "<eos>", "<pad>", "<unk>", "<start_of_image>")
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
FAMILIES = (
    Family("qwen2", _CHATML, (*_CALLS, "<|fim_prefix|>"), tools=True),
    Family("qwen3", _CHATML, (*_CALLS, "<think>", "</think>"), tools=True),
    Family("qwen3_coder", _CHATML, (*_CALLS, "<think>", "</think>"), tools=True),
    Family("chatml", ("<s>", "<|im_end|>", "<|im_start|>")),
    Family("llama3", _LLAMA3),
    Family("llama3_tools", _LLAMA3, tools=True),
    Family("llama2", ("<s>", "</s>"), ("<<SYS>>", "<</SYS>>", "[INST]", "[/INST]")),
    Family("gemma2", _GEMMA, ("<table>", "\n\n"), system=False),
    Family("gemma3", _GEMMA, ("<table>", "\n\n")),
    Family("ours", _GEMMA, ("<table>",), system=False, template=str(TEMPLATES.parents[2] / "configs" / "templates" / "gemma.jinja")),
    Family("mistral", ("<s>", "</s>", *_MISTRAL), tools=True),
    Family("llm_jp_3", ("<s>", "</s>", "<EOD|LLM-jp>", "<MASK|LLM-jp>"), labels=("### 指示:", "### 応答:")),
    Family("harmony", ("<|start|>", "<|return|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"), tools=True),
    Family("sarashina", ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")),
    Family("rakutenai", ("<s>", "</s>"), labels=("USER:", "ASSISTANT:")),
    Family(
        "lfm2",
        ("<|startoftext|>", "<|im_end|>", "<|im_start|>", "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>",
         "<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>"),
        tools=True,
    ),
    Family(
        "nemotron", ("<s>", "<SPECIAL_12>", "<SPECIAL_10>", "<SPECIAL_11>"),
        ("<think>", "</think>", "<TOOLCALL>", "</TOOLCALL>", "<AVAILABLE_TOOLS>", "</AVAILABLE_TOOLS>", "<TOOL_RESPONSE>", "</TOOL_RESPONSE>"),
        tools=True,
    ),
    Family(
        "deepseek",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        ("<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
         "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        tools=True,
    ),
)  # fmt: skip


class Model:
    """A family's tokenizer, saved to `folder` and read as a base's is; `normalizes`: as it may do before it looks for its tokens."""

    def __init__(self, family: Family, folder: Path, *, normalizes: bool) -> None:
        self.family = family
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        if normalizes:
            made.normalizer = normalizers.Sequence(
                [normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace("\u200b", "")]
            )
        made.add_special_tokens([AddedToken(token, normalized=normalizes, special=True) for token in family.special])
        made.add_tokens([AddedToken(token, normalized=normalizes, special=False) for token in family.marks])
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=made, bos_token=family.special[0], eos_token=family.special[1], chat_template=family.source
        )
        self.tokenizer.save_pretrained(folder)
        self._marks = {self.tokenizer.convert_tokens_to_ids(token) for token in (*family.special, *family.marks) if token.strip()}
        self._marks -= {self.tokenizer.convert_tokens_to_ids("<table>")} if "<table>" in family.marks else set()
        self._labels = re.compile("|".join(map(re.escape, family.labels)) or "(?!)")
        self._format: Any = hf._detect_content_format(family.source, default="string")
        found = controls.pattern(controls.told_by(folder))
        assert found is not None
        self.controls: ControlText = found

    def chat(self, body: dict[str, Any]) -> str:
        return self._rendered(body["messages"], body.get("tools"))

    def messages(self, body: dict[str, Any], *, merges: bool) -> str:
        """As `/v1/messages` does it, where the template takes a system message at its beginning only and where not."""
        asked = AnthropicServingMessages.to_chat_completion_request(AnthropicMessagesRequest(**body), merge_inline_system=merges)
        return self._rendered(asked.model_dump(exclude_none=True)["messages"], [tool.model_dump() for tool in asked.tools or ()])

    def responses(self, body: dict[str, Any]) -> str:
        asked = ResponsesRequest(**body)
        told: list[Any] = construct_input_messages(request_instructions=asked.instructions, request_input=asked.input)
        return self._rendered(told, construct_tool_dicts(asked.tools, asked.tool_choice) or [])

    def marks(self, prompt: str) -> tuple[list[int], list[str]]:
        """The control tokens in `prompt`, and the labels."""
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        return [number for number in ids if number in self._marks], self._labels.findall(prompt)

    def _rendered(self, messages: list[Any], tools: list[Any] | None) -> str:
        conversation, _, _ = parse_chat_messages(messages, _MODEL, self._format)
        made = self.tokenizer.apply_chat_template(conversation, tools=tools or None, tokenize=False, add_generation_prompt=True)
        return str(made)


@cache
def family(name: str) -> Family:
    return next(one for one in FAMILIES if one.name == name)
