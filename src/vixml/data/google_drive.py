"""Fetch a published file from Google Drive: past its confirmation page, resumed after a stop, refusals told apart.

Google shows a page ("too large to scan for viruses") before a large file, and another page in place of the file once too
many people have fetched it. The first is answered by gdown; the second becomes an error that says what to do.
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from vixml.config.world import Source
from vixml.errors import VixmlError
from vixml.files import disk_full
from vixml.progress import Quiet, bar

# Tries within one call; each goes on where the last one stopped.
RETRIES = 5
# Seconds to connect, and without a byte.
TIMEOUT = (30.0, 120.0)
# Seconds until the first byte of the file: should Google ever answer one page with the next, this ends it.
FIRST_BYTE = 600.0
_QUOTA = re.compile(r"too many users|quota", re.IGNORECASE)


def partial_folder(target: Path) -> Path:
    """Return where a download is kept until it is whole: beside the file, so that a later call goes on with it."""
    return target.with_name(f".partial-{target.name}")


def fetch_from_drive(name: str, source: Source, target: Path) -> Path:
    """Download one file from Google Drive into :func:`partial_folder`; a download that was cut is gone on with.

    Args:
        name: the source's key, for messages.
        source: its entry, with ``google_drive``.
        target: where the file will stand in the end.

    Returns:
        The whole file, not yet verified, inside the partial folder.

    Raises:
        VixmlError: no network, a refusal (quota, access), or a download cut short; what has arrived is kept.
    """
    import gdown  # it imports requests and an HTML parser
    from gdown.exceptions import DownloadCancelled, DownloadError, FileURLRetrievalError

    folder = partial_folder(target)
    folder.mkdir(exist_ok=True)
    try:
        try:
            return _download(gdown.download, source, folder / target.name)
        except DownloadError as error:
            # The published file is another by now, or the kept part is all of it: begin anew, once.
            if "byte range" not in str(error) or isinstance(error, FileURLRetrievalError):
                raise
            shutil.rmtree(folder)
            folder.mkdir()
            return _download(gdown.download, source, folder / target.name)
    except FileURLRetrievalError as error:
        message = _one_line(str(error))
        quota = _QUOTA.search(message) is not None
        raise _refused(
            "Google Drive has given this file to too many people today"
            if quota
            else "Google Drive does not give this file to a program",
            name,
            source,
            target,
            message,
            "try again in 24 hours, or " if quota else "",
        ) from error
    except DownloadCancelled as error:
        found = f"no byte of the file in {FIRST_BYTE:.0f} s"
        raise _refused("Google Drive sends pages in place of the file", name, source, target, found) from error
    except (DownloadError, OSError) as error:  # what the network's library raises is an OSError too
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(target) from error
        if getattr(error, "response", None) is not None:  # an answer came, but not the file
            raise _refused("Google Drive refuses the file", name, source, target, _one_line(str(error))) from error
        kept = sum(path.stat().st_size for path in folder.iterdir())
        raise VixmlError(
            "a download from Google Drive was cut short" if kept else "cannot reach Google Drive",
            where=f"source {name}",
            found=_one_line(str(error)),
            hint=(f"run the same command again: {kept} bytes are kept and the rest is fetched; or " if kept else "")
            + "check the network (HTTPS_PROXY and REQUESTS_CA_BUNDLE are obeyed); "
            + by_hand(source, target),
        ) from error
    except (KeyError, AssertionError, ValueError) as error:
        # What gdown raises on an answer that is neither a file nor a page it knows.
        found = f"{type(error).__name__}: {error}"
        raise _refused("Google Drive gave an answer that is not understood", name, source, target, found) from error


def by_hand(source: Source, target: Path) -> str:
    """Return what a person can do: the address, and where the file goes."""
    return (
        f"open https://drive.google.com/uc?id={source.google_drive} in a browser, place the file at {target} and run the "
        "same command again"
    )


def _download(download: Callable[..., object], source: Source, output: Path) -> Path:
    started = threading.Event()
    cancel = threading.Event()
    watch = threading.Timer(FIRST_BYTE, lambda: None if started.is_set() else cancel.set())
    watch.daemon = True
    with ExitStack() as stack:
        stack.callback(watch.cancel)
        shown: list[Quiet] = []
        done = 0

        def progress(received: int, total: int | None) -> None:
            nonlocal done
            if not shown:
                started.set()
                shown.append(stack.enter_context(bar(f"fetching {source.filename} (bytes)", total or received)))
            shown[0](received - done)
            done = received

        watch.start()
        # No cookies: what is fetched must not depend on who is signed in, and nothing is written into a home folder.
        download(
            id=source.google_drive,
            output=str(output),
            quiet=True,
            use_cookies=False,
            resume=True,
            timeout=TIMEOUT,
            retries=RETRIES,
            progress=progress,
            cancel=cancel,
        )
    return output


def _refused(what: str, name: str, source: Source, target: Path, found: str, first: str = "") -> VixmlError:
    return VixmlError(
        what,
        where=f"source {name} (Google Drive id {source.google_drive})",
        found=found,
        hint=first + by_hand(source, target),
    )


def _one_line(text: str) -> str:
    """Return a library's message as one line, without the advice that follows its first paragraphs."""
    text = text.removeprefix("Failed to retrieve file url:").split("You may still be able")[0]
    return re.sub(r"\s+", " ", text).strip()[:300]
