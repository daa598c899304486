"""Which sandbox holds here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sumika.models.errors import SumikaError
from sumika.models.sandbox import bubblewrap, landlock
from sumika.models.sandbox.view import View

Kind = Literal["bubblewrap", "landlock", "none"]
Setting = Literal["auto", "bubblewrap", "landlock", "none"]


def usable() -> tuple[Kind, ...]:
    """Those that work for this user on this machine, the strongest first."""
    found: list[Kind] = []
    if bubblewrap.works():
        found.append("bubblewrap")
    if landlock.works():
        found.append("landlock")
    return (*found, "none")


def choose(setting: Setting) -> Kind:
    """Raises SumikaError `sandbox_unavailable`, when the one that is set does not work here."""
    there = usable()
    if setting == "auto":
        return there[0]
    if setting not in there:
        raise SumikaError(
            "sandbox_unavailable",
            f"engine.sandbox is {setting}, which does not work for this user here. Install it and allow it (docs/operations.md, 'The sandbox'), or set engine.sandbox: auto.",
            f"engine.sandbox が {setting} ですが、この環境・ユーザーでは使えません。導入して許可するか(docs/operations.ja.md「サンドボックス」)、engine.sandbox: auto にしてください。",
            status=503,
        )
    return setting


def inside(
    kind: Kind, argv: Sequence[str], environment: Mapping[str, str], view: View, info_fd: int | None = None
) -> tuple[list[str], dict[str, str]]:
    """Argv and environment that run `argv` with no more than `view` in sight. `info_fd`: as for `bubblewrap.wrapped`."""
    if kind == "bubblewrap":
        env = {name: value for name, value in environment.items() if name != "TMPDIR"}
        return bubblewrap.wrapped(argv, env, view, info_fd), env
    env = {**environment, "TMPDIR": str(view.temp)}
    return landlock.wrapped(argv, env, view) if kind == "landlock" else list(argv), env
