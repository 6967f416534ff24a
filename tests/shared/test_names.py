"""Resource names: what is built parses back, and what is refused says why on one line."""

from __future__ import annotations

import pickle
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightsync import names
from weightsync.names import InvalidName

SLUG_FIRST = string.ascii_letters + string.digits
slugs = st.builds(
    str.__add__,
    st.sampled_from(SLUG_FIRST),
    st.text(SLUG_FIRST + "._-", max_size=127),
)
worker_ids = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=128
)
numbers = st.integers(0, names.MAX_VERSION_NUMBER)
anything = st.text() | slugs | st.sampled_from(["runs/a/workers/b", "runs/a/weightVersions/07"])

PARSERS: list[tuple[Callable[[str], object], Callable[..., str]]] = [
    (names.parse_run, names.run_name),
    (names.parse_worker, names.worker_name),
    (names.parse_version, names.version_name),
    (names.parse_rendezvous, names.rendezvous_name),
]


@given(slugs, worker_ids, numbers, slugs)
def test_every_name_that_is_built_parses_back(
    run_id: str, worker_id: str, number: int, group_id: str
) -> None:
    assert names.parse_run(names.run_name(run_id)) == run_id
    assert names.parse_worker(names.worker_name(run_id, worker_id)) == (run_id, worker_id)
    assert names.parse_version(names.version_name(run_id, number)) == (run_id, number)
    assert names.parse_rendezvous(names.rendezvous_name(run_id, group_id)) == (run_id, group_id)


@given(st.lists(st.sampled_from(["runs", "weightVersions", "workers", "rendezvous"]) | anything))
def test_whatever_parses_is_built_back_to_the_same_text(parts: list[str]) -> None:
    name = "/".join(parts)
    for parse, build in PARSERS:
        try:
            found = parse(name)
        except InvalidName as error:
            message = str(error)
            assert message.isprintable()
            assert len(message) < 1500
        else:
            assert build(*(found if isinstance(found, tuple) else (found,))) == name


def test_names_have_the_documented_form() -> None:
    assert names.run_name("default") == "runs/default"
    assert names.worker_name("default", "explorer-0") == "runs/default/workers/explorer-0"
    assert names.version_name("default", 120) == "runs/default/weightVersions/120"
    assert names.rendezvous_name("default", "sync") == "runs/default/rendezvous/sync"


@pytest.mark.parametrize("run_id", ["a", "0", "A.b_c-d", "a..b", "x" * 128])
def test_run_ids_that_are_allowed(run_id: str) -> None:
    assert names.check_run_id(run_id) is run_id
    assert names.check_group_id(run_id) is run_id


@pytest.mark.parametrize(
    ("run_id", "says"),
    [
        ("", "is empty"),
        (".", "begins with '.'"),
        ("..", "begins with '.'"),
        ("-x", "begins with '-'"),
        ("_x", "begins with '_'"),
        ("a/b", "contains '/'"),
        ("a b", "contains ' '"),
        ("a\n", r"contains '\n'"),
        ("a\x00", r"contains '\x00'"),
        ("é", "contains 'é'"),
        ("a\uff11", "contains '\uff11'"),
        ("x" * 129, "has 129 characters"),
    ],
)
def test_run_ids_that_are_refused(run_id: str, says: str) -> None:
    for check, field in ((names.check_run_id, "run_id"), (names.check_group_id, "group_id")):
        with pytest.raises(InvalidName) as caught:
            check(run_id)
        assert (caught.value.field, caught.value.value) == (field, run_id)
        assert f" {says}: use 1 to 128 ASCII letters" in str(caught.value)


@pytest.mark.parametrize("worker_id", ["a", "rank 0 of 8", "探索者-0", "..", "🚀", "é" * 128])
def test_worker_ids_that_are_allowed(worker_id: str) -> None:
    assert names.check_worker_id(worker_id) is worker_id
    assert names.parse_worker(names.worker_name("r", worker_id)) == ("r", worker_id)


@pytest.mark.parametrize(
    ("worker_id", "says"),
    [
        ("", "is empty"),
        (" a", "begins or ends with a space"),
        ("a ", "begins or ends with a space"),
        ("a/b", "contains '/'"),
        ("a\tb", "contains U+0009"),
        ("a\u2028b", "contains U+2028"),
        ("a\u00a0b", "contains U+00A0"),
        ("a\u202eb", "contains U+202E"),
        ("a\ud800", "contains U+D800"),
        ("é" * 129, "has 129 characters"),
    ],
)
def test_worker_ids_that_are_refused(worker_id: str, says: str) -> None:
    with pytest.raises(InvalidName) as caught:
        names.check_worker_id(worker_id)
    assert (caught.value.field, caught.value.value) == ("worker_id", worker_id)
    assert f" {says}" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "01", "00", "1.0", "1e3", " 1", "1\n", "0x1", "\u0967", "\u0661", str(2**63)],
)
def test_version_numbers_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="use a decimal number from 0 to") as caught:
        names.parse_version(f"runs/r/weightVersions/{text}")
    assert (caught.value.field, caught.value.value) == ("version", text)


@pytest.mark.parametrize("number", [-1, 2**63, pytest.param(10**6000, id="long"), True])
def test_numbers_that_no_version_has(number: int) -> None:
    with pytest.raises(InvalidName) as caught:
        names.version_name("r", number)
    assert "is not a version number" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "runs", "runs/", "/runs/a", "runs/a/", "Runs/a", "runs/a/b", "projects/a"]
)
def test_paths_of_the_wrong_form(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        names.parse_run(name)
    assert caught.value.field in ("run_name", "run_id")


def test_a_name_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidName, match=r"form 'runs/\{run\}/workers/\{worker\}'") as caught:
        names.parse_worker("runs/a/weightVersions/1")
    assert caught.value.field == "worker_name"


@pytest.mark.parametrize("value", [None, 1, b"default", ["a"]])
def test_what_is_no_text_is_refused_and_not_a_crash(value: object) -> None:
    for check in (names.check_run_id, names.check_worker_id, names.check_group_id):
        with pytest.raises(InvalidName, match="not a text"):
            check(value)  # type: ignore[arg-type]  # the point of the test
    for parse, _ in PARSERS:
        with pytest.raises(InvalidName, match="does not have the form"):
            parse(value)  # type: ignore[arg-type]  # the point of the test


def test_the_error_survives_pickling_between_processes() -> None:
    error = InvalidName("run_id", "a b", "contains ' '")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.field, again.value) == (str(error), "run_id", "a b")
