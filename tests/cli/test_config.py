"""`weightsync config`: init, check, show."""

from __future__ import annotations

from pathlib import Path

import yaml

from sync_server.config import ServerSettings
from tests.cli.runner import weightsync


def test_init_writes_every_setting_at_its_default(tmp_path: Path) -> None:
    file = tmp_path / "weightsync.yaml"
    assert str(file) in weightsync("config", "init", file).out
    text = file.read_text()
    assert set(yaml.safe_load(text)) == set(ServerSettings.model_fields)
    for field in ServerSettings.model_fields.values():
        assert str(field.description).split()[0] in text
    assert "Allowed: one of sqlite, memory." in text
    checked = weightsync("config", "check", file, "--json")
    assert checked.json == {"file": str(file), "ok": True, "problems": []}

    shown = weightsync("config", "show", "--config", file, "--json").json
    defaults = weightsync("config", "show", "--json").json
    assert {key: item["value"] for key, item in shown.items()} == {
        key: item["value"] for key, item in defaults.items()
    }

    file.write_text("mine")
    weightsync("config", "init", file).failed(1, str(file), "--force")
    assert file.read_text() == "mine"
    forced = weightsync("config", "init", file, "--force", "--json")
    assert set(forced.json) == {"file", "settings"}
    assert file.read_text() == text
    weightsync("config", "init", tmp_path / "no" / "file").failed(1, "No such file")


def test_check_names_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("listn: 'localhost:1'\nkeep_versions: 0\nlog_level: inf\nlisten: here\n")
    # What the environment says has no part in it: neither to hide what is wrong nor to add to it.
    env = {"WEIGHTSYNC_KEEP_VERSIONS": "3", "WEIGHTSYNC_MAX_UPLOADS": "many"}
    checked = weightsync("config", "check", file, "--json", env=env)
    checked.failed(1, "'listn'", "'listen'", "keep_versions = 0", "'inf'", "'debug'", "HOST:PORT")
    assert set(checked.json) == {"file", "ok", "problems"}
    assert not checked.json["ok"]
    assert len(checked.json["problems"]) == 4

    for content, problem in (("a: [", "no YAML"), ("- 1", "a mapping"), ("\0", "no YAML")):
        file.write_text(content)
        weightsync("config", "check", file).failed(1, str(file), problem)
    weightsync("config", "check", tmp_path / "none").failed(1, "No such file")


def test_show_names_the_source_of_each(tmp_path: Path) -> None:
    file = tmp_path / "weightsync.yaml"
    file.write_text("keep_versions: 3\nmax_uploads: 4\nshutdown_grace: 1\n")
    env = {"WEIGHTSYNC_MAX_UPLOADS": "5", "WEIGHTSYNC_SHUTDOWN_GRACE": "2", "WEIGHTSYNC_RUN": "x"}
    options = ("--config", file, "--shutdown-grace", "3")
    shown = weightsync("config", "show", *options, "--json", env=env).json
    assert shown["keep_versions"] == {"value": 3, "source": str(file)}
    assert shown["max_uploads"] == {"value": 5, "source": "environment WEIGHTSYNC_MAX_UPLOADS"}
    assert shown["shutdown_grace"] == {"value": 3.0, "source": "command line"}
    assert shown["log_level"] == {"value": "info", "source": "default"}
    lines = weightsync("config", "show", *options, env=env).out.splitlines()
    assert [line.split()[0] for line in lines] == list(ServerSettings.model_fields)
    (line,) = (line for line in lines if line.startswith("max_uploads"))
    assert line.split() == ["max_uploads", "5", "environment", "WEIGHTSYNC_MAX_UPLOADS"]
