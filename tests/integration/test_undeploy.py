"""An alias that is removed: requests for it are refused, and the engine that nothing else needs is ended."""

from __future__ import annotations

from tests.integration.conftest import Stack, until


def test_alias_is_removed_over_the_api_and_its_engine_ends(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    stack.deploy("other", stack.base("other", seed=3))
    with stack.client() as client:
        gone = client.delete("/admin/v1/aliases/talk", params={"reason": "replaced"})
        assert gone.status_code == 200 and (gone.json()["alias"], gone.json()["version"]) == ("talk", "base@1"), gone.text
        assert client.delete("/admin/v1/aliases/talk").status_code == 404
        assert client.get("/admin/v1/aliases/talk").status_code == 404
        (row,) = client.get("/admin/v1/audit", params={"action": "alias.remove", "object": "talk", "limit": 5}).json()["data"][
            -1:
        ]
        assert (row["outcome"], row["reason"]) == ("done", "replaced")
    until(lambda: stack.chat("talk").status_code == 404, what="the gateway routes it no more")
    until(lambda: len(stack.engines()) == 1, what="its engine is ended")
    assert stack.chat("other").status_code == 200
    stack.deploy("talk", stack.version("base@1"))
    assert stack.chat("talk").status_code == 200
