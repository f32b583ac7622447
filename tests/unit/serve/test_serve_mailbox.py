"""What the event loop and the decoding thread hand each other: bounds, order, no lost wake-up."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from mvqkd.serve.mailbox import Mailbox

SECOND = np.zeros(16_000, dtype=np.float32)


def test_a_full_queue_makes_the_sender_wait_until_there_is_space() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(max_queue_s=2)
        await mailbox.put(SECOND)
        await mailbox.put(SECOND)
        third = asyncio.create_task(mailbox.put(SECOND))
        await asyncio.sleep(0.02)
        assert not third.done()
        assert mailbox.is_waiting
        assert mailbox.queued_s == 2
        assert mailbox.take() is not None
        mailbox.deliver([])
        await asyncio.wait_for(third, 1)
        assert mailbox.queued_s == 2
        assert mailbox.accepted_s == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["finish", "cancel"])
def test_an_ended_stream_lets_the_sender_go_and_takes_nothing_more(how: str) -> None:
    async def scenario() -> None:
        mailbox = Mailbox(max_queue_s=1)
        await mailbox.put(SECOND)
        waiting = asyncio.create_task(mailbox.put(SECOND))
        await asyncio.sleep(0)
        mailbox.finish("draining") if how == "finish" else mailbox.cancel()
        await asyncio.wait_for(waiting, 1)
        assert mailbox.accepted_s == 1

    asyncio.run(scenario())


def test_the_first_reason_to_end_stays() -> None:
    mailbox = Mailbox(1)
    mailbox.finish("max_duration")
    mailbox.finish("client")
    assert mailbox.end_reason == "max_duration"


def test_a_slow_reader_gets_the_newest_partial_and_every_final() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(1)
        kinds = ["partial", "partial", "final", "partial", "partial", "partial", "final", "end"]
        for number, kind in enumerate(kinds):
            mailbox.deliver([{"type": kind, "number": number}])
        assert [message["number"] for message in await mailbox.next_messages()] == [1, 2, 5, 6, 7]

    asyncio.run(scenario())


def test_two_threads_lose_no_block_and_no_wakeup() -> None:
    """A thread that takes as fast as it can, a queue of one block: 3,000 chances to miss each other."""
    num_blocks = 3000
    taken: list[int] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        mailbox = Mailbox(max_queue_s=1 / 16_000)

        def take() -> None:
            while len(taken) < num_blocks:
                block = mailbox.take()
                if block is not None:
                    taken.append(int(block[0][0]))
                    # Looked at once a block, as the decoding thread does.
                    if mailbox.is_waiting:
                        loop.call_soon_threadsafe(mailbox.deliver, [])
                time.sleep(0)  # let the other thread run

        thread = threading.Thread(target=take)
        thread.start()
        for number in range(num_blocks):
            await asyncio.wait_for(mailbox.put(np.array([number], np.float32)), 10)
        thread.join()

    asyncio.run(scenario())
    assert taken == list(range(num_blocks))
