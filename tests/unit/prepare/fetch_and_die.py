"""What the tests run in a process of its own to kill it: a download, or the extraction of an archive.

``python -m tests.unit.prepare.fetch_and_die fetch URL TARGET CHECKSUM CONNECTIONS``
``python -m tests.unit.prepare.fetch_and_die extract ARCHIVE FOLDER``
``python -m tests.unit.prepare.fetch_and_die download NAME STORE SOURCE``
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(what: str, *words: str) -> None:
    if what == "fetch":
        from detector.fetch import fetch, pieces

        pieces.LEAST_PIECE = 256 << 10
        url, target, checksum, connections = words
        print("begun", flush=True)
        fetch(url, Path(target), checksum=checksum, connections=int(connections))
    elif what == "extract":
        from detector.data.download.extract import extract

        print("begun", flush=True)
        extract(Path(words[0]), Path(words[1]))
    else:
        from detector.data.download.store import download

        print("begun", flush=True)
        download(words[0], words[1], source=words[2])
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
