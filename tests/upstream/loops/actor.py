"""The process of one Trainer or Explorer: does what Ray's process of such an actor does.

It makes the object, and then calls the methods that the launcher names. As in an async actor of
Ray every call is a task of one event loop, so that `shutdown` may come while `explore` runs.
"a b" calls a and then b, with no turn of the loop between them; "synchronizer.a" calls the a of the
handle that the object has.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, cast

from tests.upstream.loops.settings import Settings, trinity_config


def main(parent: Connection, settings: Settings, name: str) -> None:
    """Serves `parent` until it says nothing more. Answers are (method, error, value), `error` the
    text of a traceback or None; the first, for the making of the object, is of "__init__"."""
    log = os.open(settings.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if settings.own_actor:
        os.environ["LOOPS_OWN_ACTOR"] = settings.server
    else:
        os.environ["WEIGHTSYNC_SERVER"] = settings.server
        importlib.import_module("sync_client.trinity").install()
    asyncio.run(_main(parent, settings, name))


async def _main(parent: Connection, settings: Settings, name: str) -> None:
    preloaded = importlib.import_module("tests.upstream.loops.preloaded")
    if name == settings.trainer:
        actor = preloaded.Trainer(trinity_config(settings, settings.explorer_names[0]))
    else:
        actor = preloaded.Explorer(trinity_config(settings, name))
    parent.send(("__init__", None, None))
    calls = set()
    while True:
        try:
            method = await asyncio.to_thread(parent.recv)
        except EOFError:
            return
        call = asyncio.create_task(_call(parent, actor, method))
        calls.add(call)
        call.add_done_callback(calls.discard)


async def _call(parent: Connection, actor: object, method: str) -> None:
    try:
        for name in method.split():
            value = await _method(actor, name)()
    except Exception:  # noqa: BLE001 - the launcher gets it, as from Ray
        parent.send((method, traceback.format_exc(), None))
    else:
        parent.send((method, None, _plain(value)))


def _method(actor: Any, name: str) -> Callable[[], Awaitable[Any]]:
    owner, _, remote = name.rpartition(".")
    found: Any = getattr(getattr(actor, owner), remote).remote if owner else getattr(actor, name)
    return cast("Callable[[], Awaitable[Any]]", found)


def _plain(value: Any) -> Any:
    """Without upstream's enums, which the test has not imported."""
    if isinstance(value, dict):
        return {getattr(key, "value", key): item for key, item in value.items()}
    return value
