"""`install()`: unmodified Trinity-RFT finds this service, here and in real Ray workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Trinity-RFT 0.6.0 is for Python below 3.13"
)

# Only Trinity's own modules are asked for in these scripts, and what they import is stood in for.
_HEAD = """
import json, os, sys
from tests.upstream import stubs
"""

_INSTALLED = """
stubs.install("torch")
import ray
before = dict(vars(ray))
from sync_client.trinity import SynchronizerHandle, StateManager, install, uninstall
from sync_client.trinity.state_manager import StateManager as Ours
if EARLY:
    from trinity.manager.synchronizer import Synchronizer
    from trinity.manager.state_manager import StateManager
install(states=True); install()
from trinity.manager.synchronizer import Synchronizer
from trinity.manager.state_manager import StateManager
from sync_client.trinity import get
handle = Synchronizer.get_actor(namespace=RUN)
found = {"kind": type(handle).__name__, "upstream": StateManager.__module__}
found["version"] = get(handle.get_latest_model_version.remote())
states = StateManager(path=DIRECTORY, explorer_name="e")
states.save_explorer(4, [{"index": 2}])
found["files"] = os.listdir(DIRECTORY)
found["loaded"] = StateManager(path=DIRECTORY, explorer_name="e").load_explorer()
uninstall()
found["restored"] = vars(ray) == before  # a stub makes its attributes when they are asked for
states = StateManager(path=DIRECTORY, explorer_name="e")
states.save_explorer(5, [])
found["files afterwards"] = os.listdir(DIRECTORY)
try:
    Synchronizer.get_actor(namespace=RUN)
    found["upstream's"] = "returned"
except Exception as error:
    found["upstream's"] = type(error).__name__
print(json.dumps(found))
"""

_PLUGIN = """
stubs.install("torch")
sys.modules.pop("trinity.utils.plugin_loader", None)
import importlib.util  # upstream's loader uses it and relies on others to import it
from importlib.machinery import SourceFileLoader
loader = SourceFileLoader("loader", LOADER).load_module()
loader.load_plugins()
from trinity.manager.synchronizer import Synchronizer
print(json.dumps({"handle": repr(Synchronizer.get_actor(namespace=RUN))}))
"""

_RAY = """
import time
import ray
original = ray.get
from sync_client.trinity import Ref, get, get_actor, install, uninstall
install(server=SERVER)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace=RUN,
         runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})

@ray.remote(num_cpus=0)
class Rank:
    # An actor that was told nothing, as upstream's engines and trainer ranks are.
    def push(self, step):
        import torch
        from tests.upstream import stubs
        stubs.install("torch", "ray")
        from trinity.manager.synchronizer import Synchronizer
        handle = Synchronizer.get_actor(namespace=os.environ["RUN_OF_TEST"])
        ray.get(handle.set_model_state_dict.remote({"a": torch.full((3,), float(step))}, step))
        return type(handle).__module__

found = {}
rank = Rank.options(runtime_env={"env_vars": {"RUN_OF_TEST": RUN}}).remote()
found["module"] = ray.get(rank.push.remote(3), timeout=60)
handle = get_actor(namespace=RUN)
version = handle.get_latest_model_version.remote()
found["one"] = ray.get(version)
again = handle.get_latest_model_version.remote()
found["mixed"] = ray.get([ray.put("a"), version, ray.put("b"), again])
found["theirs"] = [ray.get(ray.put(5)), ray.get([ray.put(6)]), ray.get([])]
tensors = handle.get_model_state_dict_iterator.remote()
found["iterator"] = [ray.get(ref)[1].tolist() for ref in tensors]
import asyncio
async def both():
    return await asyncio.gather(version, ray.put("c"))
found["awaited"] = asyncio.run(both())
ray.get(handle.set_trainer_status.remote("running"))
ray.get(handle.set_explorer_status.remote("running"))
waiting = handle.wait_new_model_state_dict.remote(3)
for refs in (waiting, [waiting], [ray.put(1), waiting]):
    try:
        ray.get(refs, timeout=0.2)
        found["timeout"] = "none"
    except ray.exceptions.GetTimeoutError:
        found["timeout"] = "GetTimeoutError"
try:
    ray.get([3])
except Exception as error:
    theirs = type(error).__name__
try:
    original([3])
except Exception as error:
    found["nonsense"] = theirs == type(error).__name__
uninstall()
found["restored"] = ray.get is original
print(json.dumps(found), flush=True)
ray.shutdown()
"""


def run(script: str, *, site: Path | None = None, **names: Any) -> dict[str, Any]:
    """What a script prints that was given these names, in a process of its own."""
    given = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    paths = [str(ROOT)] if site is None else [str(site), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-c", f"{given}\n{_HEAD}\n{script}"],
        cwd=ROOT,
        env={
            **os.environ,
            "WEIGHTSYNC_SERVER": str(names.get("SERVER", "")),
            "PYTHONPATH": os.pathsep.join(paths),
            "TRINITY_PLUGIN_DIRS": str(names.get("PLUGINS", "")),
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("early", [False, True], ids=["imported later", "imported before"])
def test_upstreams_classes_use_it_until_it_is_taken_out(
    server: ServerProcess, run_id: str, tmp_path: Path, early: bool
) -> None:
    directory = str(tmp_path / "job")
    found = run(_INSTALLED, SERVER=server.address, RUN=run_id, DIRECTORY=directory, EARLY=early)
    assert found == {
        "kind": "SynchronizerHandle",
        "upstream": "trinity.manager.state_manager",
        "version": 0,
        "files": [],
        "loaded": {"latest_iteration": 4, "taskset_states": [{"index": 2}]},
        "restored": True,
        "files afterwards": ["e_meta.json"],
        "upstream's": "TypeError",  # it asks the stub of Ray
    }


def test_the_example_plugin_is_all_that_is_needed(
    server: ServerProcess, run_id: str, tmp_path: Path
) -> None:
    """Loaded by upstream's own loader, which copies plugins into its package: into a copy of it."""
    spec = find_spec("trinity")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    site = tmp_path / "site"
    shutil.copytree(spec.submodule_search_locations[0], site / "trinity")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    example = (ROOT / "docs" / "examples" / "weightsync_plugin.py").read_text()
    assert "sync-server:50051" in example
    (plugins / "weightsync_plugin.py").write_text(
        example.replace("sync-server:50051", server.address)
    )
    found = run(
        _PLUGIN,
        site=site,
        RUN=run_id,
        PLUGINS=str(plugins),
        LOADER=str(site / "trinity" / "utils" / "plugin_loader.py"),
    )
    assert found["handle"] == f"<weightsync Synchronizer, run {run_id} at {server.address}>"


def test_ray_gets_our_references_beside_its_own(server: ServerProcess, run_id: str) -> None:
    pytest.importorskip("ray")
    found = run(_RAY, SERVER=server.address, RUN=run_id)
    assert found == {
        "module": "sync_client.trinity.handle",
        "one": 3,
        "mixed": ["a", 3, "b", 3],
        "theirs": [5, [6], []],
        "iterator": [[3.0, 3.0, 3.0]],
        "awaited": [3, "c"],
        "timeout": "GetTimeoutError",
        "nonsense": True,
        "restored": True,
    }


_GROUPS = """
import ray
from sync_client.trinity import get, get_actor, install
from tests.drop_in.conftest import make_config
install(server=SERVER)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace=RUN,
         runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})

@ray.remote(num_cpus=0)
class Side:
    # Upstream's Explorer and Trainer, as far as the Synchronizer calls them; and what it called.
    def __init__(self):
        self.calls = []
    def begin(self, method, status):
        config = make_config(RUN, explorer_world_size=3, sync_timeout=77)
        self.handle = get_actor(config)
        get(getattr(self.handle, method).remote(status))
    def get_weight_sync_info(self):
        return "10.0.0.9", 29501, [["a", "float32", [2]]]
    def setup_weight_sync_group(self, *arguments):
        self.calls.append(["setup", *arguments])
    def set_state_dict_meta(self, meta):
        self.calls.append(["meta", meta])
    def teardown_weight_sync_group(self):
        self.calls.append(["teardown"])
    def said(self):
        return self.calls

trainer, explorer = Side.options(name="trainer").remote(), Side.options(name="explorer").remote()
handle = get_actor(namespace=RUN)
found = {}
try:
    get(handle.coordinate_weight_sync_setup.remote())
except RuntimeError as error:
    found["too early"] = str(error)
ray.get([trainer.begin.remote("set_trainer_status", "running"),
         explorer.begin.remote("set_explorer_status", "running")], timeout=60)
# As upstream's launcher does, with a namespace alone.
ray.get(handle.coordinate_weight_sync_setup.remote())
ray.get(handle.setup_weight_sync_group.remote("10.0.0.9", 29502, [["b", "int8", [1]]]))
ray.kill(trainer)
ray.get(handle.coordinate_weight_sync_teardown.remote(), timeout=30)
found["explorer"] = ray.get(explorer.said.remote())
print(json.dumps(found), flush=True)
ray.shutdown()
"""


def test_process_groups_are_set_up_through_the_ray_actors(
    server: ServerProcess, run_id: str
) -> None:
    pytest.importorskip("ray")
    found = run(_GROUPS, SERVER=server.address, RUN=run_id)
    assert "explorer_world_size" in found.pop("too early")
    meta = [["a", "float32", [2]]]
    assert found == {
        "explorer": [
            ["setup", "10.0.0.9", 29501, 4, "rollout_weight_sync", 77],
            ["meta", meta],
            ["setup", "10.0.0.9", 29502],
            ["meta", [["b", "int8", [1]]]],
            ["teardown"],
        ]
    }


def test_without_ray_process_groups_say_so(server: ServerProcess, run_id: str) -> None:
    script = """
from sync_client.trinity import get, get_actor
handle = get_actor(namespace=RUN, server=SERVER)
try:
    get(handle.setup_weight_sync_group.remote("x", 1))
except RuntimeError as error:
    print(json.dumps({"said": str(error)}))
"""
    assert "this process has no Ray" in run(script, SERVER=server.address, RUN=run_id)["said"]
