"""`install()`: unmodified Trinity-RFT uses this service in place of its Ray actor.

What is patched: `Synchronizer.get_actor` (Trinity's alone), `ray.get` (which hands everything but
our references to the original), and `ray.init` (so that the job's other processes install this,
too). On request also `StateManager`. Modules that are not imported yet are patched when they are.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from sync_client.trinity import state_manager
from sync_client.trinity.getting import get_actor
from sync_client.trinity.refs import Ref, get

# Ray imports and calls it in every worker process of the job before anything else.
_HOOK = "sync_client.trinity.installation.install_in_worker"
_STATES_VARIABLE = "WEIGHTSYNC_TRINITY_STATES"
_SYNCHRONIZER = "trinity.manager.synchronizer"
_STATE_MANAGER = "trinity.manager.state_manager"

_lock = threading.RLock()
_undo: list[Callable[[], None]] = []
_finder: _PatchOnImport | None = None


def install(*, server: str | None = None, states: bool = False) -> None:
    """Lets Trinity-RFT's own code in this process, and in the Ray workers of a job that it starts
    from now on, use this service. Call it from a plugin file. Calling it again changes nothing.

    server: as for `get_actor`; kept in `WEIGHTSYNC_SERVER`. states: also keep the progress of
    trainer and explorers here instead of in files of the checkpoint directory (`StateManager`).
    """
    global _finder  # noqa: PLW0603 - one installation of the process
    if server is not None:
        os.environ["WEIGHTSYNC_SERVER"] = server
    if states:
        os.environ[_STATES_VARIABLE] = "1"
    with _lock:
        if _finder is not None:
            return
        patches: dict[str, Callable[[ModuleType], None]] = {
            _SYNCHRONIZER: _patch_synchronizer,
            "ray": _patch_ray,
        }
        if states:
            patches[_STATE_MANAGER] = _patch_state_manager
        _finder = _PatchOnImport(patches)
        sys.meta_path.insert(0, _finder)
        for name, patch in patches.items():
            module = sys.modules.get(name)
            if module is not None:
                patch(module)


def uninstall() -> None:
    """Restores what `install` patched in this process. Handles that were given stay usable."""
    global _finder  # noqa: PLW0603 - one installation of the process
    with _lock:
        if _finder is not None:
            sys.meta_path.remove(_finder)
            _finder = None
        while _undo:
            _undo.pop()()
        os.environ.pop(_STATES_VARIABLE, None)


def install_in_worker() -> None:
    """What Ray calls in the workers of a job; what the launcher was told is in the environment."""
    install(states=bool(os.environ.get(_STATES_VARIABLE)))


# --- patches


def _replace(owner: object, name: str, value: object) -> None:
    """Sets an attribute, and remembers what was there."""
    there = name in vars(owner)
    before = vars(owner).get(name)  # not getattr: a classmethod must stay one

    def undo() -> None:
        if there:
            setattr(owner, name, before)
        else:
            delattr(owner, name)

    setattr(owner, name, value)
    _undo.append(undo)


def _patch_synchronizer(module: ModuleType) -> None:
    def in_its_place(cls: type, config: Any = None, namespace: str | None = None) -> Any:
        del cls
        return get_actor(config, namespace)

    kind: Any = module.__dict__["Synchronizer"]
    in_its_place.__doc__ = get_actor.__doc__
    _replace(kind, "get_actor", classmethod(in_its_place))


def _patch_state_manager(module: ModuleType) -> None:
    kind: Any = module.__dict__["StateManager"]
    for name, method in vars(state_manager.StateManager).items():
        if callable(method):
            _replace(kind, name, method)


def _patch_ray(module: ModuleType) -> None:
    ray: Any = module
    original_get, original_init = ray.get, ray.init

    @functools.wraps(original_get)
    def ray_get(object_refs: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(object_refs, Ref):
            return _get(ray, object_refs, kwargs.get("timeout"))
        mixed = isinstance(object_refs, list | tuple)
        if not mixed or not any(isinstance(ref, Ref) for ref in object_refs):
            return original_get(object_refs, *args, **kwargs)
        timeout = kwargs.pop("timeout", None)
        end = None if timeout is None else time.monotonic() + timeout
        theirs = [ref for ref in object_refs if not isinstance(ref, Ref)]
        results = iter(original_get(theirs, *args, timeout=timeout, **kwargs))
        return [
            _get(ray, ref, None if end is None else max(0.0, end - time.monotonic()))
            if isinstance(ref, Ref)
            else next(results)
            for ref in object_refs
        ]

    @functools.wraps(original_init)
    def ray_init(*args: Any, **kwargs: Any) -> Any:
        environment = dict(kwargs.get("runtime_env") or {})
        if environment.setdefault("worker_process_setup_hook", _HOOK) == _HOOK:
            ours = {k: v for k, v in os.environ.items() if k.startswith("WEIGHTSYNC_")}
            environment["env_vars"] = {**ours, **(environment.get("env_vars") or {})}
            kwargs["runtime_env"] = environment
        return original_init(*args, **kwargs)

    _replace(ray, "get", ray_get)
    _replace(ray, "init", ray_init)


def _get(ray: Any, ref: Ref[Any], timeout: float | None) -> Any:
    """The result, with Ray's own exception where it does not come in time."""
    if not ref.wait(timeout):
        raise ray.exceptions.GetTimeoutError(f"the call did not end within {timeout:g} s")
    return get(ref)


class _PatchOnImport(importlib.abc.MetaPathFinder):
    """Patches a module as soon as it was imported."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self._patches = patches
        self._busy = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the others find, with a loader that patches at the end."""
        patch = self._patches.get(fullname)
        if patch is None or getattr(self._busy, "now", False):
            return None
        self._busy.now = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy.now = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            with _lock:
                if _finder is self:
                    patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # a loader of its own
        return spec
