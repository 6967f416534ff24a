"""What `handle.method.remote()` gives: in place of Ray's ObjectRef and ObjectRefGenerator."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

R = TypeVar("R")
P = ParamSpec("P")


class Ref(Generic[R]):
    """A result that will come: await it on any event loop, or give it to `get`.

    As with Ray a call goes on when nobody waits for it any more. It may be awaited many times.
    """

    def __init__(self, future: concurrent.futures.Future[R]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, R]:
        # Shielded: a cancelled waiter must not end the call half way.
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def future(self) -> concurrent.futures.Future[R]:
        """The future behind it, as of Ray's references."""
        return self._future

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, whatever it is; False if it did not come within `timeout` seconds."""
        return not concurrent.futures.wait([self._future], timeout).not_done

    def __repr__(self) -> str:
        return f"<weightsync call, {'done' if self._future.done() else 'under way'}>"


@overload
def get(refs: Ref[R], timeout: float | None = None) -> R: ...
@overload
def get(refs: Sequence[Ref[Any]], timeout: float | None = None) -> list[Any]: ...
def get(refs: Ref[Any] | Sequence[Ref[Any]], timeout: float | None = None) -> Any:
    """The result of one reference, or a list of those of several. Raises what the call raised,
    TimeoutError after `timeout` seconds (the calls go on), TypeError for anything else.
    """
    if isinstance(refs, Ref):
        return _result(refs, timeout)
    if not isinstance(refs, Sequence) or not all(isinstance(ref, Ref) for ref in refs):
        raise TypeError(f"a weightsync reference or a list of them is expected, not {refs!r}")
    end = None if timeout is None else time.monotonic() + timeout
    return [_result(ref, None if end is None else max(0.0, end - time.monotonic())) for ref in refs]


def _result(ref: Ref[R], timeout: float | None) -> R:
    # Not `result(timeout)`: the call itself may have raised a TimeoutError.
    if not ref.wait(timeout):
        raise TimeoutError(f"the call did not end within {timeout:g} s")
    return ref.future().result()


class Runner(Protocol):
    """What calls run on: see `LoopThread`."""

    def submit(self, work: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
        """Begins `work`, in the order of the submissions."""


class RefStream(Generic[R]):
    """References to items that come one at a time: iterate over it, or `async for`.

    Only one item is in memory at a time. An error comes as the last reference, and is raised by
    whoever asks for its result, as with Ray.
    """

    def __init__(self, runner: Runner, items: AsyncIterator[R]) -> None:
        self._runner = runner
        self._items = items
        self._ended = False
        # As with Ray the call begins now, and not when somebody looks.
        self._first: concurrent.futures.Future[R] | None = runner.submit(self._step())

    def __iter__(self) -> RefStream[R]:
        return self

    def __next__(self) -> Ref[R]:
        if not self._ended:
            future = self._begin()
            concurrent.futures.wait([future])
            if self._goes_on(future):
                return Ref(future)
        raise StopIteration

    def __aiter__(self) -> RefStream[R]:
        return self

    async def __anext__(self) -> Ref[R]:
        if not self._ended:
            future = self._begin()
            wrapped = asyncio.wrap_future(future)
            await asyncio.wait([wrapped])
            wrapped.exception()  # looked at, or asyncio complains; it is told by the reference
            if self._goes_on(future):
                return Ref(future)
        raise StopAsyncIteration

    def _begin(self) -> concurrent.futures.Future[R]:
        first, self._first = self._first, None
        return first or self._runner.submit(self._step())

    async def _step(self) -> R:
        return await anext(self._items)

    def _goes_on(self, future: concurrent.futures.Future[R]) -> bool:
        error = future.exception()
        self._ended = error is not None
        return not isinstance(error, StopAsyncIteration)


class BoundMethod(Generic[P, R]):
    """`handle.method`: call it with `.remote(...)`, as the method of a Ray actor."""

    def __init__(
        self,
        runner: Callable[[], Runner],
        function: Callable[P, Coroutine[Any, Any, R]],
        keeps_arguments: bool,
    ) -> None:
        self._runner = runner
        self._function = function
        self._keeps_arguments = keeps_arguments
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Ref[R]:
        """Begins the call. Raises TypeError for arguments that the method does not have."""
        ref = Ref(self._runner().submit(self._function(*args, **kwargs)))
        if not self._keeps_arguments:
            # Ray has copied the arguments when it returns, so a caller may change them then.
            ref.wait()
        return ref

    def __call__(self, *args: object, **kwargs: object) -> R:
        raise TypeError(
            f"{self.__name__}() is a method of a remote object: "
            f"call {self.__name__}.remote(...) and get() or await what it gives"
        )


class HasRunner(Protocol):
    """A handle."""

    def runner(self) -> Runner:
        """Where its calls run."""


class remote_method(Generic[P, R]):
    """Makes a coroutine method one that is called with `.remote(...)`."""

    def __init__(
        self,
        function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        keeps_arguments: bool = True,
    ) -> None:
        self._function = function
        self._keeps_arguments = keeps_arguments
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, handle: None, owner: type) -> remote_method[P, R]: ...
    @overload
    def __get__(self, handle: HasRunner, owner: type) -> BoundMethod[P, R]: ...
    def __get__(
        self, handle: HasRunner | None, owner: type
    ) -> remote_method[P, R] | BoundMethod[P, R]:
        if handle is None:
            return self
        bound: Callable[P, Coroutine[Any, Any, R]] = self._function.__get__(handle, owner)
        return BoundMethod(handle.runner, bound, self._keeps_arguments)


class BoundStream(Generic[P, R]):
    """`handle.method` of a method that gives a stream."""

    def __init__(
        self, runner: Callable[[], Runner], function: Callable[P, AsyncIterator[R]]
    ) -> None:
        self._runner = runner
        self._function = function
        self.__doc__ = function.__doc__

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> RefStream[R]:
        """Begins the call. Raises TypeError for arguments that the method does not have."""
        return RefStream(self._runner(), self._function(*args, **kwargs))


class remote_stream(Generic[P, R]):
    """Like `remote_method`, for one that yields its results."""

    def __init__(self, function: Callable[Concatenate[Any, P], AsyncIterator[R]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, handle: None, owner: type) -> remote_stream[P, R]: ...
    @overload
    def __get__(self, handle: HasRunner, owner: type) -> BoundStream[P, R]: ...
    def __get__(
        self, handle: HasRunner | None, owner: type
    ) -> remote_stream[P, R] | BoundStream[P, R]:
        if handle is None:
            return self
        bound: Callable[P, AsyncIterator[R]] = self._function.__get__(handle, owner)
        return BoundStream(handle.runner, bound)
