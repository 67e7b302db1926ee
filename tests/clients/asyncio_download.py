"""Download from the stream service with asyncio streams and check every byte: ADDRESS PORT BYTES."""

import asyncio
import sys

from testbed.services.stream import DOWN, pattern


async def download(address: str, port: int, total: int) -> None:
    pattern(DOWN, 0, 0)  # takes a while the first time
    reader, writer = await asyncio.open_connection(address, port)
    peer = writer.get_extra_info("peername")
    writer.write(b"DOWN %d 65536 0\n" % total)
    offset = 0
    while offset < total:
        data = await reader.read(65536)
        assert data, f"end of stream after {offset} bytes"
        assert data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
        offset += len(data)
    assert writer.get_extra_info("socket").getpeername() == peer
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(download(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
