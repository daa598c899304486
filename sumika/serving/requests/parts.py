"""Content in parts: text is taken; pictures, sound and files are refused by name, since no model here reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sumika.serving.requests.fields import Strict
from sumika.serving.requests.problems import refused

MAX_PARTS = 256
_MEDIA = {
    "image_url": ("images", "画像"),
    "image": ("images", "画像"),
    "input_image": ("images", "画像"),
    "input_audio": ("audio", "音声"),
    "audio_url": ("audio", "音声"),
    "video_url": ("video", "動画"),
    "file": ("files", "ファイル"),
    "input_file": ("files", "ファイル"),
    "document": ("files", "ファイル"),
}


def no_media(part: Any) -> Any:
    """`part`, unless it is one of a kind that only other models read.

    Raises:
        PydanticCustomError: `unsupported_content`.
    """
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _MEDIA:
        en, ja = _MEDIA[kind]
        raise refused(
            "unsupported_content",
            f"no model here reads {en}. Send text parts only.",
            f"{ja}を読めるモデルはありません。テキストだけを送ってください。",
        )
    return part


class TextPart(Strict):
    type: Literal["text"]
    text: str


Parts = Annotated[list[Annotated[TextPart, BeforeValidator(no_media)]], Field(min_length=1, max_length=MAX_PARTS)]
