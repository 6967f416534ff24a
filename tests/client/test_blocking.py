"""The blocking face: any number of threads, not its own loop, no fork, and Ctrl-C at any time.

Its end is in test_closing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sync_client import AsyncSyncClient, AsyncWorker, SyncClient, Worker, errors
from tests.servers import ServerProcess
from tests.until import until


def public(kind: type) -> dict[str, Any]:
    """Methods and properties without an underscore, inherited ones too."""
    return {n: v for n, v in inspect.getmembers(kind) if not n.startswith("_")}


# What drives the asynchronous client from within the SDK and is of no use to a blocking caller.
INSIDE = {
    "AsyncSyncClient": {"connection", "send", "call_workers", "set_worker_state"},
    "AsyncWorker": {"client", "leased", "resource", "start"},
    "parameters": {"author", "rendezvous", "worker", "retry_for"},
}


def parameters(method: Callable[..., Any]) -> list[tuple[str, object, object]]:
    """Name, kind and default of every parameter that is meant for callers."""
    found = inspect.signature(method).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name not in INSIDE["parameters"]]


FACES = [(AsyncSyncClient, SyncClient), (AsyncWorker, Worker)]


@pytest.mark.parametrize(("aio", "blocking"), FACES)
def test_both_faces_have_the_same_methods(aio: type, blocking: type) -> None:
    coroutines = public(aio)
    methods = public(blocking)
    missing = coroutines.keys() - methods.keys() - INSIDE[aio.__name__]
    assert not missing, f"{blocking.__name__} lacks {missing}"
    for name in coroutines.keys() & methods.keys():
        if callable(coroutines[name]) and callable(methods[name]):
            assert parameters(coroutines[name]) == parameters(methods[name]), name


async def test_both_faces_do_the_same(server: ServerProcess, run_id: str) -> None:
    state_dict = {"a": torch.arange(10), "b": torch.ones(2, 3)}
    async with AsyncSyncClient(server.address, run=run_id) as aio:
        trainer = await aio.register("trainer")
        pushed = await trainer.push(state_dict, version=1)
        pulled = await aio.pull(1)
        listed = [(name, t.tolist()) async for name, t in aio.iter_tensors(1)]
        status = await aio.status()
        waited = await aio.wait_version(after=0, timeout=1)

        def blocking() -> None:
            with SyncClient(server.address, run=run_id) as client:
                assert client.versions() == [pushed]
                again = client.pull(1)
                assert again.digest == pulled.digest
                assert all(again.state_dict[k].equal(v) for k, v in pulled.state_dict.items())
                assert [(name, t.tolist()) for name, t in client.iter_tensors(1)] == listed
                assert client.status() == status
                assert client.wait_version(after=0, timeout=1) == waited == 1
                with pytest.raises(errors.TrainerActive):
                    client.push(state_dict, version=2)

        with ThreadPoolExecutor(1) as thread:
            await asyncio.get_running_loop().run_in_executor(thread, blocking)


def test_one_client_serves_many_threads(client: SyncClient) -> None:
    state_dict = {f"layer.{i}": torch.full((100_000,), float(i)) for i in range(8)}
    client.push(state_dict, version=1)

    def work(index: int) -> None:
        if index % 3 == 0:
            assert client.wait_version(after=1, timeout=0.05) is None
        elif index % 3 == 1:
            into = {name: torch.zeros_like(t) for name, t in state_dict.items()}
            client.pull(1, into=into)
            assert all(into[name].equal(t) for name, t in state_dict.items())
        else:
            assert [v.version for v in client.versions()] == [1]
            name, tensor = next(iter(client.iter_tensors(1)))
            assert tensor.equal(state_dict[name])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(48)))


def test_waiting_in_one_thread_holds_up_no_other(client: SyncClient) -> None:
    client.push({"a": torch.ones(1)}, version=1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.wait_version, 1, 30)
        until(lambda: len(client.status().waiters) == 1)
        client.push({"a": torch.ones(2)}, version=2)
        assert waiting.result(timeout=5) == 2


def test_its_own_loop_is_refused(client: SyncClient) -> None:
    state_dict = {"a": torch.ones(10)}

    def from_within(done: int, total: int) -> None:
        client.status()

    with pytest.raises(errors.WrongThread, match="AsyncSyncClient"):
        client.push(state_dict, version=1, progress=from_within)
    client.push(state_dict, version=1)
    with pytest.raises(errors.WrongThread, match="AsyncSyncClient"):
        client.pull(1, progress=from_within)
    assert client.pull(1).version == 1  # it still works


def test_what_a_callback_raises_comes_out(client: SyncClient) -> None:
    class Mine(Exception):
        pass

    def broken(done: int, total: int) -> None:
        raise Mine

    state_dict = {"a": torch.zeros(4 << 20)}
    with pytest.raises(Mine):
        client.push(state_dict, version=1, progress=broken)
    with pytest.raises(errors.RunNotFound):
        client.versions()
    client.push(state_dict, version=1)
    with pytest.raises(Mine):
        client.pull(1, progress=broken)


FORK = """
import os, sys
from sync_client import SyncClient, errors

def refused(work):
    try:
        work()
    except errors.ForkedClient as error:
        assert "spawn" in str(error), error
        return
    raise AssertionError("was not refused")

client = SyncClient(sys.argv[1])
explorer = client.register("explorer")
child = os.fork()
if child == 0:
    refused(client.status)
    refused(lambda: explorer.set_state("RUNNING"))
    refused(lambda: next(client.watch()))
    refused(client.close)
    other = SyncClient(sys.argv[1])
    refused(other.status)  # gRPC would end the process here
    print("child", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
client.status()  # the parent has lost nothing
client.close()
child = os.fork()
if child == 0:
    with SyncClient(sys.argv[1]) as fresh:
        fresh.status()
    print("fresh", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", flush=True)
"""


def test_a_fork_is_noticed(server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, server.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["child", "fresh", "parent"]


CTRL_C = """
import sys, torch
from sync_client import SyncClient

what = sys.argv[3]
with SyncClient(sys.argv[1], run=sys.argv[2]) as client:
    if what == "push":
        client.push({"a": torch.zeros(1 << 30, dtype=torch.uint8)}, version=2,
                    progress=lambda done, total: done > total // 4 and print("now", flush=True))
    else:
        print("now", flush=True)
        if what == "wait":
            client.wait_version(after=1)
        else:
            list(client.watch())
"""


@pytest.mark.parametrize("what", ["wait", "watch", "push"])
def test_ctrl_c_ends_it_at_once(server: ServerProcess, client: SyncClient, what: str) -> None:
    client.push({"a": torch.ones(1)}, version=1)
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C, server.address, client.run, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "now\n"
            if what == "wait":
                until(lambda: len(client.status().waiters) == 1)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors_text = process.communicate(timeout=15)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    assert time.monotonic() - started < 5
    assert process.returncode in (130, -signal.SIGINT), errors_text
    assert "KeyboardInterrupt" in errors_text
    until(lambda: client.status().waiters == ())
    assert [v.version for v in client.versions()] == [1]
