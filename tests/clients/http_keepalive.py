"""Several requests on one HTTP connection, whole files and ranges: ADDRESS DIRECTORY SEED.

Until a line comes.
"""

import http.client
import random
import select
import sys
import time
from pathlib import Path


def main(address: str, directory: str, seed: int) -> None:
    rng = random.Random(seed)
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.connect()
    own = connection.sock.getsockname()
    while not select.select([sys.stdin], [], [], 0)[0]:
        file = rng.choice(("small", "medium", "medium"))
        expected = Path(directory, file).read_bytes()
        headers, status = {}, 200
        if rng.random() < 0.5:
            first = rng.randrange(len(expected))
            last = rng.randrange(first, len(expected))
            headers, status, expected = {"Range": f"bytes={first}-{last}"}, 206, expected[first : last + 1]
        connection.request("GET", f"/{file}", headers=headers)
        response = connection.getresponse()
        assert response.status == status, response.status
        assert response.read() == expected, f"wrong bytes of {file} {headers}"
        # http.client would open a new connection without a word.
        assert connection.sock is not None and connection.sock.getsockname() == own
        time.sleep(rng.uniform(0, 0.02))
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
