"""StateManager beside upstream's own, record for record; and what files can't do."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sync_client import errors
from sync_client.trinity import StateManager, get_actor
from tests.drop_in.conftest import make_config
from tests.drop_in.test_install import run
from tests.servers import ServerProcess

_BOTH = """
stubs.install("torch")
import inspect, random, tempfile
from trinity.manager.state_manager import StateManager as Upstream
from sync_client.trinity import StateManager as Ours
from tests.drop_in.conftest import make_config

source = random.Random(SEED)
def plain(depth=0):
    kinds = [lambda: source.randrange(-10**9, 10**9), lambda: source.random(), lambda: None,
             lambda: source.choice([True, False]), lambda: "t\\u00e9xt" * source.randrange(3)]
    if depth < 3:
        kinds += [lambda: [plain(depth + 1) for _ in range(source.randrange(4))],
                  lambda: {str(i): plain(depth + 1) for i in range(source.randrange(4))}]
    return source.choice(kinds)()
def state():
    return {str(i): plain() for i in range(source.randrange(5))}

names = dict(trainer_name="t", explorer_name="e")
def fresh():
    return [kind(DIRECTORY, **names, config=make_config(RUN)) for kind in (Upstream, Ours)]
signatures = {}
for name in vars(Upstream):
    if not name.startswith("_") or name == "__init__":
        signatures[name] = [
            list(inspect.signature(getattr(kind, name)).parameters) for kind in (Upstream, Ours)
        ]
differences = []
sides = fresh()
for number in range(300):
    kind = source.choice(["save_explorer", "save_explorer_server_url", "save_trainer", "save_stage",
        "load_explorer", "load_explorer_server_url", "load_trainer", "load_stage"])
    arguments = {
        "save_explorer": lambda: (
            source.randrange(1, 99), [state() for _ in range(source.randrange(3))]
        ),
        "save_explorer_server_url": lambda: ("http://host:%d" % number,),
        "save_trainer": lambda: (source.randrange(99), state()),
        "save_stage": lambda: (source.randrange(5),),
    }.get(kind, lambda: ())()
    if source.random() < 0.1:
        sides = fresh()
    answers = [getattr(side, kind)(*arguments) for side in sides]
    if answers[0] != answers[1]:
        differences.append([kind, *map(repr, answers)])
print(json.dumps({"differences": differences, "signatures": signatures}))
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Trinity-RFT 0.6.0 is for Python below 3.13"
)
@pytest.mark.parametrize("seed", range(2))
def test_it_remembers_what_upstream_remembers(
    server: ServerProcess, run_id: str, tmp_path: Path, seed: int
) -> None:
    found = run(_BOTH, SERVER=server.address, RUN=run_id, DIRECTORY=str(tmp_path), SEED=seed)
    assert found["differences"] == []
    assert len(found["signatures"]) == 9
    for name, (theirs, ours) in found["signatures"].items():
        assert theirs == ours, name


@pytest.fixture
def manager(
    server: ServerProcess, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StateManager]:
    """One with names and a configuration."""
    monkeypatch.setenv("WEIGHTSYNC_SERVER", server.address)
    yield StateManager(str(tmp_path), "t", "e", make_config(run_id), check_config=True)
    get_actor(namespace=run_id).close()


def test_both_halves_of_a_record_are_kept(manager: StateManager) -> None:
    """The URL and the progress of an explorer are saved by two threads, as its two loops do."""

    def urls() -> None:
        for number in range(50):
            manager.save_explorer_server_url(f"http://x:{number}")

    def steps() -> None:
        for step in range(1, 51):
            manager.save_explorer(step, [{"at": step}])

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(urls), threads.submit(steps)]:
            done.result()
    assert manager.load_explorer_server_url() == "http://x:49"
    assert manager.load_explorer() == {"latest_iteration": 50, "taskset_states": [{"at": 50}]}


def test_another_configuration_is_refused_key_by_key(
    manager: StateManager, run_id: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"synchronizer\.sync_timeout: 20 -> 30") as refused:
        StateManager(str(tmp_path), config=make_config(run_id, sync_timeout=30), check_config=True)
    assert isinstance(refused.value, errors.ConfigMismatch)


def test_without_a_configuration_the_directory_names_the_run(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTSYNC_SERVER", server.address)
    assert inspect.signature(StateManager).parameters["path"].default is inspect.Parameter.empty
    first, second = tmp_path / "a" / "job", tmp_path / "b" / "job"
    StateManager(str(first)).save_stage(2)
    assert StateManager(str(first / ".." / "job")).load_stage() == {"latest_stage": 2}
    assert StateManager(str(second)).load_stage() == {}
