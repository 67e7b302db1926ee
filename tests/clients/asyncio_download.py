"""Download from the stream service with asyncio streams until a line comes, and check every byte: ADDRESS PORT."""

import asyncio
import sys

from testbed.services.stream import DOWN, PERIOD, pattern


async def download(address: str, port: int) -> None:
    pattern(DOWN, 0, 0)  # takes a while the first time
    reader, writer = await asyncio.open_connection(address, port)
    peer = writer.get_extra_info("peername")
    writer.write(b"DOWN 0 65536 0\n")
    told, loop, offset = asyncio.Event(), asyncio.get_running_loop(), 0

    def end() -> None:
        loop.remove_reader(sys.stdin)
        told.set()
        writer.write_eof()

    loop.add_reader(sys.stdin, end)
    while data := await reader.read(65536):
        assert data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
        offset += len(data)
        assert told.is_set() or writer.get_extra_info("socket").getpeername() == peer
    assert told.is_set() and offset % PERIOD == 0, f"end of stream after {offset} bytes"
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(download(sys.argv[1], int(sys.argv[2])))
