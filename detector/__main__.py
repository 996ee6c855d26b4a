"""``python -m detector``: the same as the ``detector`` command."""

from __future__ import annotations

from detector.cli import leave, main

if __name__ == "__main__":
    leave(main())
