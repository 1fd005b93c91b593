"""What the files of tests/images/test_workers.py do to the process that decodes them; it imports little, because that process does too."""

from __future__ import annotations

import os
import signal

from vixml.images.decode import prepare


def misbehave(file: bytes, size: int) -> bytes:
    """Do what the file says."""
    if file == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if file == b"memory":
        return bytes(1 << 30)[:9]
    if file == b"exit":
        os._exit(3)
    if file == b"bug":
        raise KeyError("bug")
    return prepare(file, size)


def stop(file: bytes, size: int) -> bytes:
    """Stop the process on demand."""
    if file:
        os.kill(os.getpid(), signal.SIGSTOP)
    return file
