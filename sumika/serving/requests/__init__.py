"""What a client may ask, field by field. Everything that goes to an engine is built from these and from nothing else."""

from sumika.serving.requests.chat import ChatRequest
from sumika.serving.requests.completion import CompletionRequest
from sumika.serving.requests.problems import invalid
from sumika.serving.requests.reading import parse, read_json

__all__ = ["ChatRequest", "CompletionRequest", "invalid", "parse", "read_json"]
