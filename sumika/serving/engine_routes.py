"""Every route that the pinned vLLM has, and who of us may use it: an engine's own server is no boundary.

vLLM's key covers four path prefixes; the rest, from `/pause` to `/collective_rpc`, answers anybody. So engines listen on a
private socket, and both who talk to them build each path from this list. `tests/e2e/test_engine_routes.py` reads the routes of
the installed vLLM: one that stands in neither list fails it.
"""

from __future__ import annotations

from typing import Literal

User = Literal["gateway", "supervisor"]

USED: dict[User, frozenset[tuple[str, str]]] = {
    "gateway": frozenset({("GET", "/metrics")})
    | frozenset(
        ("POST", path)
        for path in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/rerank",
            "/tokenize",
            "/detokenize",
            "/v1/responses",
            "/v1/messages",
            "/v1/messages/count_tokens",
        )
    ),
    "supervisor": frozenset(
        {
            ("GET", "/health"),
            ("GET", "/metrics"),
            ("GET", "/v1/models"),
            ("POST", "/v1/completions"),
            ("POST", "/v1/embeddings"),
            ("POST", "/rerank"),
            ("POST", "/v1/load_lora_adapter"),
            ("POST", "/v1/unload_lora_adapter"),
            ("POST", "/sleep"),
            ("POST", "/wake_up"),
            ("POST", "/collective_rpc"),
            ("POST", "/reset_prefix_cache"),
        }
    ),
}

# Never asked for by us, whatever the method; a tripwire in the tests' engine.
UNUSED = frozenset({
    # They stop, profile or change the engine, or the model in its memory.
    "/abort_requests", "/inference/v1/abort_requests", "/pause", "/resume", "/is_paused", "/is_sleeping",
    "/reset_mm_cache", "/reset_encoder_cache", "/release_kv_cache_memory", "/scale_elastic_ep", "/is_scaling_elastic_ep",
    "/init_weight_transfer_engine", "/shutdown_weight_transfer_engine", "/start_weight_update", "/start_draft_weight_update",
    "/update_weights", "/finish_weight_update", "/update_weight_version", "/weight_checker", "/start_profile", "/stop_profile",
    "/fault_tolerance/apply", "/adapters", "/adapters/{adapter_name}",
    # They tell how it is set up or what it does.
    "/server_info", "/tokenizer_info", "/get_world_size", "/weight_info", "/kv_event_sources", "/fault_tolerance/status",
    "/load", "/version", "/ping", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc",
    # They generate, embed or render, by fields that we have not read.
    "/invocations", "/inference/v1/generate", "/generative_scoring", "/pooling", "/classify", "/score",
    "/v1/score", "/v1/rerank", "/v2/rerank", "/v2/embed", "/cohere/v2/chat",
    "/v1/responses/render", "/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel",
    "/v1/messages/render", "/v1/systemone", "/v1/realtime",
    "/v1/chat/completions/batch", "/v1/chat/completions/render", "/v1/chat/completions/derender",
    "/v1/completions/render", "/v1/completions/derender", "/v1/audio/transcriptions", "/v1/audio/translations",
})  # fmt: skip


def path(user: User, method: str, asked: str) -> str:
    """`asked`, which may have a query.

    Raises:
        ValueError: where `user` has no business there, a fault of ours.
    """
    if (method, asked.partition("?")[0]) not in USED[user]:
        raise ValueError(f"{user} may not {method} {asked}")
    return asked


def url(user: User, method: str, asked: str) -> str:
    """The same as a URL: its host is not looked up, since a connector knows one socket alone."""
    return f"http://engine{path(user, method, asked)}"
