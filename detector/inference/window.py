"""A window on the screen, where there is a screen."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import cv2

from detector.inference.images import Image

#: Esc, q and Q end a demo
QUIT = frozenset((27, ord("q"), ord("Q")))
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"


@cache
def why_no_window() -> str:
    """Why no window can be opened, '' if one can.

    OpenCV ends the process when it finds no display, so another process tries it first.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (DISPLAY is not set)"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=60, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return "a window could not be opened"
    if tried.returncode == 0:
        return ""
    if "not implemented" in tried.stderr:
        return "this build of OpenCV has no windows"
    return f"the display {os.environ.get('DISPLAY', '')!r} cannot be used"


def show(image: Image, name: str, *, wait_ms: int) -> bool:
    """Show an image; whether the user asked to go on.

    Args:
        image: (H, W, 3) uint8 BGR.
        name: title of the window.
        wait_ms: how long it stays before this returns; 0 waits for a key, or for the window to be closed.

    Returns:
        False after Esc, q or Q, or when the window was closed.
    """
    cv2.namedWindow(name, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    cv2.imshow(name, image)
    while True:
        key = cv2.waitKey(wait_ms if wait_ms > 0 else 100)
        if cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) < 1:
            return False
        if key >= 0:
            return key & 0xFF not in QUIT
        if wait_ms > 0:
            return True
