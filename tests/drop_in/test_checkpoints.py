"""Versions from checkpoints: the watched directory, and shards that are counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sync_client import SyncClient, errors
from sync_client.trinity import SynchronizerHandle, get, get_actor
from tests.drop_in.conftest import another_process, make_config
from tests.servers import ServerProcess
from tests.until import until

Make = Callable[..., SynchronizerHandle]


@pytest.fixture
def make(server: ServerProcess, run_id: str, tmp_path: Path) -> Any:
    """Makes handles whose configuration has the checkpoint method and `tmp_path`."""
    made: list[SynchronizerHandle] = []

    def handle(**changes: Any) -> SynchronizerHandle:
        changes = {"sync_method": "checkpoint", **changes}
        made.append(get_actor(make_config(run_id, tmp_path, **changes), server=server.address))
        return made[-1]

    yield handle
    for item in made:
        item.close()


def write(directory: Path, step: int, *, full: bool = False, announce: bool = True) -> Path:
    """A checkpoint as upstream's trainers write it: the file that announces it comes last."""
    actor = directory / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.full((3,), float(step))}, actor / "model.safetensors")
    if full:
        (actor.parent / ".full_checkpoint").touch()
    if announce:
        (directory / "latest_state_dict_iteration.txt").write_text(str(step))
    return actor


def test_the_trainers_handle_announces_what_appears(make: Make, tmp_path: Path) -> None:
    trainer = make()
    get(trainer.set_trainer_status.remote("running"))
    get(trainer.set_explorer_status.remote("running"))
    waiting = trainer.wait_new_model_state_dict.remote(0)
    actor = write(tmp_path, 1)
    assert get(waiting, timeout=5) == 1
    assert get(trainer.get_latest_model_path.remote()) == str(actor)
    assert get(trainer.get_model_state_dict.remote()) == (None, 1)


def test_what_is_half_written_is_waited_for(make: Make, tmp_path: Path) -> None:
    trainer = make()
    get(trainer.set_trainer_status.remote("running"))
    announced = tmp_path / "latest_state_dict_iteration.txt"
    for nonsense in ("", "twelve", "-3", "\0"):
        announced.write_text(nonsense)
        get(trainer.set_trainer_status.remote("running"))
    announced.unlink()
    announced.mkdir()
    get(trainer.set_trainer_status.remote("running"))
    announced.rmdir()
    assert get(trainer.get_latest_model_version.remote()) == 0
    write(tmp_path, 2)
    until(lambda: get(trainer.get_latest_model_version.remote()) == 2)


def test_the_last_checkpoint_goes_before_the_news_of_the_end(make: Make, tmp_path: Path) -> None:
    trainer = make()
    get(trainer.set_trainer_status.remote("running"))
    get(trainer.set_explorer_status.remote("running"))
    for step in range(1, 6):
        write(tmp_path, step)
        get(trainer.set_trainer_status.remote("stopped"))
        assert get(trainer.get_latest_model_version.remote()) == step
        get(trainer.set_trainer_status.remote("running"))


def test_only_what_was_for_explorers_alone_is_removed(make: Make, tmp_path: Path) -> None:
    trainer = make()
    get(trainer.set_trainer_status.remote("running"))
    other = tmp_path / "global_step_77"
    other.mkdir()
    for step in range(1, 7):
        write(tmp_path, step, full=step == 2)
        until(partial(shows, trainer, step))
    until(lambda: not (tmp_path / "global_step_4").exists())
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert left == ["global_step_2", "global_step_5", "global_step_6", "global_step_77"]


def test_an_explorer_announces_while_there_is_no_trainer(make: Make, tmp_path: Path) -> None:
    write(tmp_path, 5)
    explorer = make()
    until(lambda: get(explorer.get_latest_model_version.remote()) == 5)


def test_a_trainer_that_resumed_takes_explorers_back(
    server: ServerProcess, run_id: str, make: Make, tmp_path: Path
) -> None:
    begin = (
        f"h = get_actor(make_config({run_id!r}, {str(tmp_path)!r}, sync_method='checkpoint'),"
        " server=SERVER); get(h.set_trainer_status.remote('running'))"
    )
    explorer = make()
    get(explorer.set_explorer_status.remote("running"))
    with another_process(server, begin):
        write(tmp_path, 50)
        assert get(explorer.wait_new_model_state_dict.remote(-1), timeout=5) in (0, 50)
        until(lambda: get(explorer.get_latest_model_version.remote()) == 50)
        assert get(explorer.wait_new_model_state_dict.remote(0)) == 50
    waiting = explorer.wait_new_model_state_dict.remote(50)
    write(tmp_path, 41)
    with another_process(server, begin):
        assert get(waiting, timeout=10) == 41


def test_a_remote_sampler_is_announced_by_its_path(make: Make, tmp_path: Path) -> None:
    trainer = make(trainer_type="tinker")
    get(trainer.set_trainer_status.remote("running"))
    actor = write(tmp_path, 3, announce=False)
    (tmp_path / "latest_state_dict_iteration.txt").write_text("3")
    get(trainer.set_trainer_status.remote("running"))
    assert get(trainer.get_latest_model_version.remote()) == 0  # its path is not there yet
    (actor.parent / "remote_sampler_path.txt").write_text("tinker://sampler-3\n")
    until(lambda: get(trainer.get_latest_model_version.remote()) == 3)
    assert get(trainer.get_model_state_dict.remote()) == ("tinker://sampler-3", 3)


def shows(handle: SynchronizerHandle, step: int) -> bool:
    """Whether that is the newest version."""
    return get(handle.get_latest_model_version.remote()) == step


# --- shards


def test_the_last_of_all_ranks_makes_the_version(
    server: ServerProcess, run_id: str, tmp_path: Path
) -> None:
    write(tmp_path, 4, announce=False)
    rank = f"h = get_actor(make_config({run_id!r}, {str(tmp_path)!r}), server=SERVER)"
    call = "get(h.set_model_state_dict_with_step_num.remote(4, 3))"
    with (
        another_process(server, rank) as one,
        another_process(server, rank) as two,
        another_process(server, rank) as three,
    ):
        said: list[str] = []
        threads = [
            threading.Thread(target=lambda other=other: said.append(other.run(call)))
            for other in (one, two, three)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(said) == ["4", "None", "None"]
    with SyncClient(server.address, run_id) as client:
        assert client.pull().state_dict["a"].tolist() == [4.0] * 3
        assert len(client.versions()) == 1


def test_without_a_world_size_it_is_the_latest_checkpoint(
    handle: SynchronizerHandle, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidCheckpoint, match="has no checkpoint"):
        get(make(sync_method="memory").set_model_state_dict_with_step_num.remote())
    write(tmp_path, 6, announce=False)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("6")
    assert get(make(sync_method="memory").set_model_state_dict_with_step_num.remote()) == 6
    assert get(make(sync_method="memory").get_latest_model_version.remote()) == 6


def test_a_checkpoint_that_can_not_be_read_is_no_version(make: Make, tmp_path: Path) -> None:
    handle = make(sync_method="memory")
    for content in (b"", b"\xff" * 100):
        actor = write(tmp_path, 7, announce=False)
        (actor / "model.safetensors").write_bytes(content)
        with pytest.raises(errors.InvalidCheckpoint, match="can't be read"):
            get(handle.set_model_state_dict_with_step_num.remote(7))
    with pytest.raises(AssertionError):
        get(handle.set_model_state_dict_with_step_num.remote(None, 2))
    assert get(handle.get_latest_model_version.remote()) == 0
