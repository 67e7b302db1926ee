"""Lifelines: the agent learns when the last process is through with a connection, and whether each closed it."""

from __future__ import annotations

import asyncio
import os

import pytest

from mtcp.lifeline import Lifeline, Watch

pytestmark = pytest.mark.unit


def watch(*lines: Lifeline, fd: int) -> bool:
    """What the watch says once all `lines` are closed in this process."""

    async def until_the_end() -> bool:
        end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        watch = Watch(fd, end.set_result)
        try:
            return await asyncio.wait_for(end, 5)
        finally:
            watch.close()

    for line in lines:
        line.close()
    return asyncio.run(until_the_end())


def test_closed() -> None:
    fd, held = os.pipe()
    assert watch(Lifeline(held), fd=fd)


def test_forgotten() -> None:
    fd, held = os.pipe()
    line = Lifeline(held)
    del line
    assert watch(fd=fd)


def test_died() -> None:
    fd, held = os.pipe()
    os.close(held)
    assert not watch(fd=fd)


def test_both_processes_closed_it() -> None:
    fd, held = os.pipe()
    child = Lifeline(os.dup(held))
    child.forked()
    assert watch(Lifeline(held), child, fd=fd)


def test_the_parent_closed_it_and_the_child_died() -> None:
    fd, held = os.pipe()
    child = os.dup(held)
    os.write(child, b"+")
    os.close(child)
    assert not watch(Lifeline(held), fd=fd)


def test_one_process_has_it_still() -> None:
    fd, held = os.pipe()
    with os.fdopen(os.dup(held), "wb") as other, pytest.raises(asyncio.TimeoutError):

        async def wait() -> None:
            end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            watch = Watch(fd, end.set_result)
            try:
                await asyncio.wait_for(end, 0.05)
            finally:
                watch.close()

        Lifeline(held).close()
        assert not other.closed
        asyncio.run(wait())


def test_a_descriptor_that_cannot_be_read_has_ended() -> None:
    fd, held = os.pipe()
    os.close(fd)
    assert not watch(fd=held)
