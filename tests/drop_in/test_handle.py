"""The handle: upstream's surface, references, order, and who may write."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import pickle
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sync_client import errors
from sync_client.trinity import RunningStatus, SynchronizerHandle, get, get_actor
from sync_client.trinity.refs import remote_method, remote_stream
from tests.drop_in.conftest import another_process, make_config
from tests.servers import ServerProcess, running_server
from tests.until import until

# What the documentation of the original has, of releases before 0.6 too.
DOCUMENTED = {
    "add_module": ["module_ref"],
    "set_trainer_status": ["status"],
    "get_trainer_status": [],
    "set_explorer_status": ["status", "old_status"],
    "get_explorer_status_counts": [],
    "set_model_state_dict_with_step_num": ["step_num", "world_size"],
    "set_model_state_dict": ["model_state_dict", "trainer_step"],
    "get_model_state_dict": [],
    "get_state_dict_meta": [],
    "setup_weight_sync_group": ["master_address", "master_port", "state_dict_meta"],
    "wait_new_model_state_dict": ["current_version", "no_wait"],
    "ready_to_nccl_sync": ["module", "trainer_step"],
}


def weights(value: float = 1.0, rows: int = 3) -> dict[str, torch.Tensor]:
    """A small state dict."""
    return {
        "layer.weight": torch.full((rows, 2), value, dtype=torch.bfloat16),
        "bias": torch.arange(4, dtype=torch.int32),
    }


# --- the surface


def of_upstream() -> dict[str, list[str]]:
    """The public methods of 0.6.0 and their parameters, read from its source."""
    found = importlib.util.find_spec("trinity")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "manager" / "synchronizer.py"
    (kind,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef))
    return {
        method.name: [argument.arg for argument in method.args.args[1:]]
        for method in kind.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and not method.name.startswith("_")
        and method.name != "get_actor"
    }


def test_every_method_of_upstream_is_there_with_its_parameters() -> None:
    wanted = {**DOCUMENTED, "trainer_requires_sync": []}
    for name, parameters in of_upstream().items():
        # The documentation has parameters that 0.6.0 has dropped, at the end.
        known = wanted.setdefault(name, parameters)
        assert known[: len(parameters)] == parameters
    for name, parameters in wanted.items():
        method = vars(SynchronizerHandle)[name]
        assert isinstance(method, remote_method | remote_stream)
        assert list(inspect.signature(method._function).parameters)[1:] == parameters, name
        assert len(method.__doc__ or "") > 20, name


def test_what_upstream_lacks_is_lacking(handle: SynchronizerHandle) -> None:
    with pytest.raises(AttributeError, match="set_trainer_state"):
        handle.set_trainer_state  # type: ignore[attr-defined]  # noqa: B018 - a typo
    with pytest.raises(TypeError, match=re.escape("call get_trainer_status.remote(...)")):
        handle.get_trainer_status()
    with pytest.raises(TypeError):
        handle.get_latest_model_version.remote(1)  # type: ignore[call-arg]  # a mistake
    with pytest.raises(TypeError, match="reference"):
        get(3)  # type: ignore[call-overload]  # a mistake


@pytest.mark.parametrize("running", [RunningStatus.RUNNING, "running", "RUNNING"])
def test_statuses_are_enums_or_texts(handle: SynchronizerHandle, running: object) -> None:
    get(handle.set_trainer_status.remote(running))
    get(handle.set_explorer_status.remote(running))
    get(handle.set_explorer_status.remote("require_sync", running))
    assert get(handle.get_trainer_status.remote()) is RunningStatus.RUNNING
    counts = get(handle.get_explorer_status_counts.remote())
    assert counts == {RunningStatus.REQUIRE_SYNC: 1}
    with pytest.raises(AssertionError, match="Invalid status 'sleeping'"):
        get(handle.set_trainer_status.remote("sleeping"))
    assert get(handle.trainer_requires_sync.remote()) is False
    get(handle.set_trainer_status.remote("require_sync"))
    assert get(handle.trainer_requires_sync.remote()) is True


# --- references


def test_a_reference_can_be_awaited_on_any_loop_and_many_times(handle: SynchronizerHandle) -> None:
    get(handle.set_trainer_status.remote("running"))
    ref = handle.get_trainer_status.remote()

    async def twice() -> list[Any]:
        return [await ref, *await asyncio.gather(ref, handle.get_latest_model_version.remote())]

    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(asyncio.run, twice()) for _ in range(2)]
    expected = [RunningStatus.RUNNING, RunningStatus.RUNNING, 0]
    assert [answer.result() for answer in answers] == [expected, expected]
    assert get([ref, handle.trainer_requires_sync.remote()]) == [RunningStatus.RUNNING, False]
    assert get([]) == []


async def test_who_stops_waiting_does_not_stop_the_call(handle: SynchronizerHandle) -> None:
    await handle.set_trainer_status.remote("running")
    await handle.set_explorer_status.remote("running")
    waiting = handle.wait_new_model_state_dict.remote(0)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(waiting, 0.1)
    with pytest.raises(TimeoutError, match=r"did not end within 0\.1 s"):
        await asyncio.to_thread(get, waiting, 0.1)
    await handle.set_model_state_dict.remote(weights(), 1)
    assert await waiting == 1


async def test_tensors_come_one_at_a_time(handle: SynchronizerHandle) -> None:
    assert [ref async for ref in handle.get_model_state_dict_iterator.remote()] == []
    sent = weights()
    await handle.set_model_state_dict.remote(sent, 1)
    meta = await handle.get_state_dict_meta.remote()
    assert sorted(meta or ()) == [("bias", "int32", (4,)), ("layer.weight", "bfloat16", (3, 2))]
    came = [await ref async for ref in handle.get_model_state_dict_iterator.remote()]
    assert [name for name, _ in came] == [name for name, _, _ in meta or ()]
    assert all(torch.equal(tensor, sent[name]) for name, tensor in came)

    def blocking() -> list[tuple[str, torch.Tensor]]:
        return [get(ref) for ref in handle.get_model_state_dict_iterator.remote()]

    assert [name for name, _ in await asyncio.to_thread(blocking)] == [name for name, _ in came]


def test_an_iterator_says_what_went_wrong(handle: SynchronizerHandle) -> None:
    get(handle.set_model_state_dict.remote("sampler://1", 1))
    refs = list(handle.get_model_state_dict_iterator.remote())
    assert len(refs) == 1
    with pytest.raises(ValueError, match="not in expected format"):
        get(refs[0])


# --- order


def test_calls_take_effect_in_the_order_in_which_they_were_made(
    handle: SynchronizerHandle,
) -> None:
    get(handle.set_trainer_status.remote("running"))
    refs: list[Any] = []
    for step in range(1, 31):
        handle.set_trainer_status.remote("require_sync" if step % 2 else "running")
        handle.set_model_state_dict.remote(None, step)
        refs += [handle.get_latest_model_version.remote(), handle.trainer_requires_sync.remote()]
    expected = [answer for step in range(1, 31) for answer in (step, bool(step % 2))]
    assert get(refs) == expected


def test_a_call_that_waits_lets_later_ones_pass(handle: SynchronizerHandle) -> None:
    get(handle.set_trainer_status.remote("running"))
    get(handle.set_explorer_status.remote("running"))
    waiting = [handle.wait_new_model_state_dict.remote(0)]
    counts = get(handle.get_explorer_status_counts.remote(), timeout=5)
    assert counts == {RunningStatus.REQUIRE_SYNC: 1}
    get(handle.set_explorer_status.remote("running"))
    waiting.append(handle.wait_new_model_state_dict.remote(0))
    assert get(handle.explorer_requires_sync.remote(), timeout=5)
    get(handle.set_model_state_dict.remote(weights(), 3))
    assert get(waiting) == [3, 3]
    assert get(handle.get_explorer_status_counts.remote()) == {RunningStatus.RUNNING: 2}


def test_tensors_may_change_once_remote_returned(handle: SynchronizerHandle) -> None:
    sent = {"a": torch.ones(2_000_000)}
    ref = handle.set_model_state_dict.remote(sent, 1)
    sent["a"].fill_(2.0)
    get(ref)
    state_dict, version = get(handle.get_model_state_dict.remote())
    assert version == 1
    assert isinstance(state_dict, dict)
    assert torch.equal(state_dict["a"], torch.ones(2_000_000))


# --- versions


def test_no_wait_changes_nothing(handle: SynchronizerHandle) -> None:
    get(handle.set_trainer_status.remote("running"))
    get(handle.set_explorer_status.remote("running"))
    assert get(handle.wait_new_model_state_dict.remote(0, no_wait=True)) == 0
    get(handle.set_model_state_dict.remote(weights(), 4))
    assert get(handle.wait_new_model_state_dict.remote(0, no_wait=True)) == 4
    assert get(handle.get_explorer_status_counts.remote()) == {RunningStatus.RUNNING: 1}


def test_a_path_as_upstream_has_it(handle: SynchronizerHandle) -> None:
    assert get(handle.get_latest_model_path.remote()) is None
    get(handle.set_model_state_dict.remote(weights(), 4))
    assert get(handle.get_latest_model_path.remote()) == "/job/global_step_4/actor"
    path = get(handle.get_latest_model_path.remote(use_huggingface=True))
    assert path == "/job/global_step_4/actor/huggingface"


def test_a_trainer_that_went_back_wakes_who_waits(server: ServerProcess, run_id: str) -> None:
    explorer = get_actor(make_config(run_id), server=server.address)
    get(explorer.set_explorer_status.remote("running"))
    trainer = (
        "h = get_actor(make_config({!r}), server=SERVER);"
        "get(h.set_trainer_status.remote('running'))"
    )
    push = "get(h.set_model_state_dict.remote({{'a': torch.full((2,), {0}.0)}}, {0}))"
    with another_process(server, trainer.format(run_id)) as first:
        assert first.run(push.format(50)) == "None"
        assert get(explorer.wait_new_model_state_dict.remote(-1)) == 50
        waiting = explorer.wait_new_model_state_dict.remote(50)
        with another_process(server, trainer.format(run_id)) as second:
            assert second.run(push.format(41)) == "None"
            assert get(waiting, timeout=10) == 41
            assert first.run(push.format(51)).startswith("StaleGeneration ")
            assert first.run("get(h.set_trainer_status.remote('stopped'))").startswith(
                "StaleGeneration "
            )
            assert get(explorer.get_trainer_status.remote()) is RunningStatus.RUNNING
            waiting = explorer.wait_new_model_state_dict.remote(41)
            assert second.run(push.format(42)) == "None"
            assert get(waiting, timeout=10) == 42
    explorer.close()


# --- who is who


def test_other_processes_write_in_the_trainers_name(server: ServerProcess, run_id: str) -> None:
    trainer = get_actor(make_config(run_id), server=server.address)
    get(trainer.set_trainer_status.remote("running"))
    rank = f"h = get_actor(namespace={run_id!r}, server=SERVER)"
    push = "get(h.set_model_state_dict.remote({'a': torch.ones(2)}, VERSION))"
    with another_process(server, rank) as other:
        assert other.run(push.replace("VERSION", "1")) == "None"
        assert get(trainer.get_latest_model_version.remote()) == 1
        with another_process(
            server,
            f"h = get_actor(make_config({run_id!r}), server=SERVER);"
            "get(h.set_trainer_status.remote('running'))",
        ):
            # The trainer that it is a rank of was replaced.
            said = other.run(push.replace("VERSION", "2"))
            assert said.startswith("StaleGeneration this process writes for "), said
            # A launcher that asks anew speaks for the new one.
            assert other.run(rank) == "done"
            assert other.run("get(h.set_trainer_status.remote('stopped'))") == "None"
            assert get(trainer.get_trainer_status.remote()) is RunningStatus.STOPPED
    trainer.close()


def test_a_killed_explorer_leaves_the_counts(
    server: ServerProcess, handle: SynchronizerHandle, run_id: str
) -> None:
    get(handle.set_explorer_status.remote("running"))
    announce = (
        f"h = get_actor(make_config({run_id!r}, explorer='second'), server=SERVER);"
        "get(h.set_explorer_status.remote('running'))"
    )
    with another_process(server, announce) as other:
        assert get(handle.get_explorer_status_counts.remote()) == {RunningStatus.RUNNING: 2}
        other.process.send_signal(signal.SIGKILL)
        until(lambda: get(handle.get_explorer_status_counts.remote()) == {RunningStatus.RUNNING: 1})


def test_an_explorer_that_starts_again_is_counted_once(
    server: ServerProcess, handle: SynchronizerHandle, run_id: str
) -> None:
    announce = (
        f"h = get_actor(make_config({run_id!r}, explorer='x'), server=SERVER);"
        "get(h.set_explorer_status.remote('running'))"
    )
    for _ in range(2):
        with another_process(server, announce):
            counts = get(handle.get_explorer_status_counts.remote())
            assert counts == {RunningStatus.RUNNING: 1}


def test_a_pickled_handle_is_a_handle_of_the_same_run(handle: SynchronizerHandle) -> None:
    get(handle.set_model_state_dict.remote(weights(), 7))
    again = pickle.loads(pickle.dumps(handle))
    assert get(again.get_latest_model_version.remote()) == 7
    assert get(again.get_latest_model_path.remote()) == "/job/global_step_7/actor"


# --- a server that dies


def test_calls_go_on_after_kill_9(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        handle = get_actor(make_config("job"), server=server.address)
        get(handle.set_trainer_status.remote("running"))
        get(handle.set_explorer_status.remote("running"))
        get(handle.set_model_state_dict.remote(weights(1), 1))
        waiting = handle.wait_new_model_state_dict.remote(1)
        assert get(handle.explorer_requires_sync.remote())
        server.kill()
        pushed = handle.get_latest_model_version.remote()
        server.start()
        assert get(pushed) == 1
        get(handle.set_model_state_dict.remote(weights(2), 2))
        assert get(waiting) == 2
        assert get(handle.get_explorer_status_counts.remote()) == {RunningStatus.RUNNING: 1}
        assert get(handle.get_trainer_status.remote()) is RunningStatus.RUNNING
        handle.close()


def test_a_wrong_address_is_an_error_of_the_call(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync_client.trinity.session._FIRST_PATIENCE", 0.3)
    handle = get_actor(namespace=run_id, server="127.0.0.1:9")
    with pytest.raises(errors.ServerUnavailable, match=re.escape("127.0.0.1:9")):
        get(handle.get_latest_model_version.remote())
    handle.close()
