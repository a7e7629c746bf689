"""`Threads`: cancelled calls never start, and one thread keeps the order of its calls."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import Event

import pytest

from uploads.threads import NotBegunError, Threads

TIMES = 50


class RefusedError(Exception):
    """The error of calls in these tests."""


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def noting(made: list[object], fails: object = None) -> Callable[[object], object]:
    def call(item: object) -> object:
        made.append(item)
        if item == fails:
            raise RefusedError(item)
        return item

    return call


@pytest.mark.parametrize("fails", range(5))
def test_one_thread_begins_nothing_after_what_failed(fails: int) -> None:
    for _ in range(TIMES):
        made: list[object] = []
        with pytest.raises(RefusedError), Threads(1) as threads:
            threads.map(noting(made, fails), range(5))
        assert made == [*range(fails + 1)]


def make(fails: str | None) -> list[object]:
    made: list[object] = []
    call = noting(made, fails)

    def together(items: list[object]) -> object:
        return call("".join(map(str, items)))

    with suppress(RefusedError), Threads(1) as threads:
        given = [threads.gather(call, items, together) for items in ("ab", "cd")]
        given.append(threads.submit(partial(call, "e")))
        assert [future.result() for future in given] == ["ab", "cd", "e"]
    return made


@pytest.mark.parametrize("fails", ["a", "b", "ab", "c", "d", "cd", "e", None])
def test_one_thread_has_one_order(fails: str | None) -> None:
    """Each item, then the whole, whatever the calling thread does meanwhile."""
    every = ["a", "b", "ab", "c", "d", "cd", "e"]
    expected = every[: every.index(fails) + 1] if fails else every
    for _ in range(TIMES):
        assert make(fails) == expected


def test_what_has_begun_ends_and_what_waits_does_not_begin() -> None:
    given, failed = Event(), Event()
    made: list[str] = []

    def fail() -> None:
        given.wait()
        raise RefusedError

    def last() -> None:
        failed.wait()
        made.append("begun before")

    with pytest.raises(RefusedError), Threads(2) as threads:  # noqa: PT012 - how it goes on after
        calls = [threads.submit(last), threads.submit(fail)]
        waiting = [threads.submit(partial(made.append, "waited")) for _ in range(10)]
        given.set()
        assert isinstance(calls[1].exception(), RefusedError)
        assert {type(call.exception()) for call in waiting} == {NotBegunError}
        with pytest.raises(NotBegunError):
            threads.submit(partial(made.append, "afterwards"))
        with pytest.raises(NotBegunError):
            threads.gather(noting([]), "ab", len)
        failed.set()
        calls[0].result()
    assert made == ["begun before"]


def test_the_whole_is_not_made_of_a_part() -> None:
    made: list[object] = []
    with pytest.raises(RefusedError), Threads(4) as threads:  # noqa: PT012 - the same
        whole = threads.gather(noting(made, 2), range(4), made.append)
        assert isinstance(whole.exception(), NotBegunError)
    assert 2 in made
    assert all(isinstance(item, int) for item in made)


def test_an_error_outside_lets_nothing_begin() -> None:
    made: list[str] = []

    def first() -> None:
        while not threads._error:  # noqa: SLF001
            time.sleep(0)
        made.append("begun before")

    with pytest.raises(KeyboardInterrupt), Threads(1) as threads:  # noqa: PT012 - the same
        threads.submit(first)
        threads.submit(partial(made.append, "waited"))
        raise KeyboardInterrupt
    assert made == ["begun before"]
