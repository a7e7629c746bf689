"""Calls to AWS on several threads: once one has failed, no other begins.

Calls begin in the order given, so with one thread a run is deterministic.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar, cast

from uploads.retries import invocation

Item = TypeVar("Item")
Result = TypeVar("Result")
Whole = TypeVar("Whole")


class NotBegunError(Exception):
    """A call did not begin because another had failed."""


class Threads:
    """At most ``most`` threads, as a context manager.

    Its end waits for the calls that have begun, and raises the first error.
    """

    def __init__(self, most: int) -> None:
        # Retries in its threads are limited by the same invocation.
        self._pool = ThreadPoolExecutor(
            most, initializer=invocation.set, initargs=(invocation.get(),)
        )
        self._lock = Lock()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error:
            self._fail(error)
        self._pool.shutdown()
        if self._error and self._error is not error:
            raise self._error from None

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Make a call. Raises NotBegunError, here or in the future, if another has failed."""
        self._require_no_error()
        return self._pool.submit(self._begin, call)

    def map(self, call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call ``call`` with each item and wait for all results. Raises like ``submit``."""
        return self.gather(call, items, lambda results: results).result() if items else []

    def gather(
        self,
        call: Callable[[Item], Result],
        items: Sequence[Item],
        then: Callable[[list[Result]], Whole],
    ) -> Future[Whole]:
        """Call ``call`` with each item, then ``then`` with all results. Raises like ``submit``.

        The thread with the last result calls ``then``, so that no thread waits for another.
        ``items`` must not be empty.
        """
        self._require_no_error()
        whole: Future[Whole] = Future()
        results: list[Result | None] = [None] * len(items)
        left = len(items)

        def make(index: int, item: Item) -> None:
            nonlocal left
            if not self._error:
                try:
                    results[index] = call(item)
                except BaseException as error:  # noqa: BLE001 - raised at the context's end
                    self._fail(error)
            with self._lock:
                left -= 1
                last = left == 0
            if last:
                end()

        def end() -> None:
            try:
                # Does not begin if a result is missing.
                whole.set_result(self._begin(lambda: then(cast("list[Result]", results))))
            except BaseException as error:  # noqa: BLE001 - raised by the future
                whole.set_exception(error)

        for index, item in enumerate(items):
            self._pool.submit(make, index, item)
        return whole

    def _begin(self, call: Callable[[], Result]) -> Result:
        self._require_no_error()
        try:
            return call()
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error

    def _require_no_error(self) -> None:
        if self._error:
            raise NotBegunError
