"""Configurations: equal or not, by which keys, and what is nobody's business."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sync_server.domain import commands
from sync_server.domain.configs import MASK, Difference, differences, is_secret, seal
from sync_server.domain.errors import ConfigMismatch
from sync_server.domain.runs import ConfigSet, Run
from tests.domain.builders import WALL, at, drive, kinds

# Keys that look like paths and like each other are what a path could get wrong.
KEYS = st.sampled_from(["a", "b", "lr", "", "a.b", "a[0]", "[0]", '"', '["a"]', "é", "token"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer()),
    st.sampled_from(["", "x", "1", "True", "None"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(KEYS, VALUES, max_size=4)


def same(left: Any, right: Any) -> bool:
    """Equal as configurations: True is not 1. Whole floats do not occur."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@given(CONFIGS, CONFIGS)
def test_there_is_no_difference_exactly_between_equals(left: Any, right: Any) -> None:
    assert (differences(left, right) == []) is same(left, right)
    assert differences(left, copy.deepcopy(left)) == []


@given(CONFIGS, CONFIGS)
def test_differences_mirror_when_the_sides_change_places(left: Any, right: Any) -> None:
    there = differences(left, right)
    back = [Difference(item.key, item.new, item.old) for item in differences(right, left)]
    assert there == back
    keys = [item.key for item in there]
    assert keys == sorted(set(keys))


def leaves(value: Any, where: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every scalar, empty dict and empty list is."""
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in leaves(item, (*where, key))]
    if isinstance(value, list) and value:
        return [leaf for key, item in enumerate(value) for leaf in leaves(item, (*where, key))]
    return [where]


@given(CONFIGS, st.data())
def test_one_changed_value_is_one_difference_with_old_and_new(config: Any, data: Any) -> None:
    places = leaves(config)
    assume(places != [()])
    place = data.draw(st.sampled_from(places))
    changed = copy.deepcopy(config)
    parent, old = changed, config
    for part in place:
        old = old[part]
    for part in place[:-1]:
        parent = parent[part]
    parent[place[-1]] = "something else"
    (found,) = differences(config, changed)
    assert same(found.old, old)
    assert found.new == "something else"
    # The key names that place and no other one.
    others = copy.deepcopy(config)
    for other in places:
        if other != place:
            node = others
            for part in other[:-1]:
                node = node[part]
            node[other[-1]] = "something else"
    assert found.key not in {item.key for item in differences(config, others)}


def test_keys_are_paths_that_people_read() -> None:
    old: Any = {
        "lr": 1e-6,
        "cluster": {"nodes": [{"gpus": 8}, {"gpus": 8}]},
        "env": {"a.b": 1},
        "gone": {"x": None},
        "same": [1, 2],
    }
    new: Any = {
        "lr": 2e-6,
        "cluster": {"nodes": [{"gpus": 8}, {"gpus": 4}, {"gpus": 1}]},
        "env": {"a.b": True},
        "come": {},
        "same": [1, 2],
    }
    assert differences(old, new) == [
        Difference("cluster.nodes[1].gpus", 8, 4),
        Difference("cluster.nodes[2].gpus", None, 1),
        Difference("come", None, {}),
        Difference('env["a.b"]', 1, True),
        Difference("gone.x", None, None),
        Difference("lr", 1e-6, 2e-6),
    ]


# --- secrets


SECRET = [
    *(
        "api_key",
        "api-key",
        "apiKey",
        "OPENAI_API_KEY",
        "wandb_api_key",
        "access_key",
        "aws_secret_access_key",
    ),
    *("secret", "client_secret", "clientSecret", "secret_key", "secrets", "token", "hf_token"),
    *("authToken", "HF_TOKEN", "password", "dbPassword", "passwd", "passphrase", "credentials"),
    *("private_key", "ssh_key", "signing-key", "Authorization", "auth.token"),
]
OPEN = [
    *("lr", "key", "keys", "tokenizer", "token_level", "tokenizer_path", "secretary", "monkey"),
    *("password_file_mode", "n_api_keys_per_node", "keyboard", "author", "batch_size"),
]


@pytest.mark.parametrize("key", SECRET)
def test_a_secret_is_sealed_shown_as_stars_and_still_compared(key: str) -> None:
    assert is_secret(key)
    old = seal("r", {"deep": [{key: "hunter2"}], key: {"nested": ["hunter2"]}})
    assert "hunter2" not in repr(old)
    assert seal("r", {"deep": [{key: "hunter2"}], key: {"nested": ["hunter2"]}}) == old
    new = seal("r", {"deep": [{key: "hunter3"}], key: {"nested": ["hunter2"]}})
    (found,) = differences(old, new)
    assert (found.old, found.new) == (MASK, MASK)
    # Another run can't tell that it has the same one.
    assert seal("s", {key: "hunter2"}) != seal("r", {key: "hunter2"})


@pytest.mark.parametrize("key", OPEN)
def test_what_only_sounds_secret_is_shown(key: str) -> None:
    assert not is_secret(key)
    assert seal("r", {key: "v"}) == {key: "v"}


def test_numbers_of_tokens_and_switches_are_settings() -> None:
    config: Any = {
        "max_tokens": 512,
        "max_response_tokens": 1024.5,
        "use_token": True,
        "token": None,
        "tokens": [1, 2],
    }
    assert seal("r", config) == config
    assert seal("r", {"password": 1234}) != {"password": 1234}
    assert seal("r", {"tokens": {"password": 1234}}) != {"tokens": {"password": 1234}}


@pytest.mark.parametrize(
    ("url", "sealed"),
    [
        ("postgresql://trinity:hunter2@db:5432/buffer", True),
        ("redis://:hunter2@cache", True),
        ("replicas=http://a,http://u:hunter2@b", True),
        ("postgresql://trinity@db:5432/buffer", False),
        ("http://127.0.0.1:8000/v1@x", False),
        ("sqlite:////data/a:b@c.db", False),
    ],
)
def test_a_url_with_a_password_is_secret_under_any_key(url: str, sealed: bool) -> None:
    found = seal("r", {"path": url})["path"]
    assert (found != url) is sealed
    assert ("hunter2" in str(found)) is False


@pytest.mark.parametrize("text", ["a", "://", "://a:", ":", "@"])
def test_a_long_prompt_costs_no_more_than_its_length(text: str) -> None:
    config: Any = {"prompt": text * 300_000}
    assert seal("r", config) == config  # a quadratic search would take an hour


SECRETS = st.text("xyz", min_size=6, max_size=6).map("hunter-".__add__)


@given(CONFIGS, SECRETS, SECRETS, st.sampled_from(SECRET))
def test_no_text_under_a_secret_key_ever_shows(config: Any, one: str, two: str, key: str) -> None:
    config = {k: v for k, v in config.items() if k != key}
    old = seal("r", {**config, key: one, "x": {key: [one, {"user": one}]}})
    new = seal("r", {**config, key: two, "x": {key: [two, {"user": two}]}})
    said = json.dumps(old) + json.dumps(new) + repr(differences(old, new))
    assert one not in said
    assert two not in said
    assert len(differences(old, new)) == (0 if one == two else 3)


# --- the command


def check(run: Run, config: Any, *, accept: bool = False) -> tuple[list[type], bool, list[str]]:
    """What changed, whether it was stored, and the keys that differed."""
    events, (stored, found) = drive(
        run,
        at(1),
        commands.check_config,
        worker_id="e",
        config=config,
        accept_changes=accept,
    )
    return kinds(events), stored, [item.key for item in found]


def test_the_first_is_kept_the_same_accepted_and_another_refused() -> None:
    run = Run("r", created_at=WALL)
    first = {"lr": 1, "api_key": "hunter2"}
    assert check(run, first) == ([ConfigSet], True, [])
    kept = run.config
    assert check(run, first) == ([], False, [])
    with pytest.raises(ConfigMismatch, match="in 2 keys") as caught:
        check(run, {"lr": 2, "api_key": "hunter3"})
    assert caught.value.metadata == {"lr": "1 -> 2", "api_key": "'***' -> '***'"}
    assert "hunter" not in str(caught.value)
    assert run.config is kept
    assert check(run, {"lr": 2, "api_key": "hunter2"}, accept=True) == ([ConfigSet], True, ["lr"])
    with pytest.raises(ConfigMismatch, match="in 1 key: lr: 2 -> 1"):
        check(run, first)


def test_even_an_empty_configuration_is_one() -> None:
    run = Run("r", created_at=WALL)
    assert check(run, {}) == ([ConfigSet], True, [])
    with pytest.raises(ConfigMismatch):
        check(run, {"self": 1, "message": None})
