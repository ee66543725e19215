"""Touches the pages of new memory in the background, so that the first block written does not pay for it.

Pages of a new file in shared memory are cleared when they are first used: a first copy into them measured two
to four times as long as the next one. Owns one thread for the length of that; changes no byte.

    start -> running -> done | stopped      (a kernel that cannot do it leaves everything as it was)
"""

import mmap
import threading

_STEP_BYTES = 4 << 20
"""Python's lock is held meanwhile: a millisecond or two."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, from Linux 5.14 on; the mmap module has no name for it."""


class Prefault:
    """Of parts of one mapping, as ranges of bytes."""

    def __init__(self, memory: mmap.mmap, *parts: range) -> None:
        self._memory = memory
        self._parts = parts
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memserve-prefault", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all pages are touched or `stop` was called."""
        self._thread.join()

    def stop(self) -> None:
        """Idempotent; the thread has ended when this returns."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        for part in self._parts:
            first_page = part.start // mmap.PAGESIZE * mmap.PAGESIZE
            for start in range(first_page, part.stop, _STEP_BYTES):
                if self._stopping.is_set():
                    return
                try:
                    self._memory.madvise(_POPULATE_WRITE, start, min(_STEP_BYTES, part.stop - start))
                except OSError:
                    return  # an older kernel: each page is touched at its first use

    def __repr__(self) -> str:
        return f"Prefault({len(self._memory)} bytes, {'running' if self._thread.is_alive() else 'ended'})"
