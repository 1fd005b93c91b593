"""Push a model folder, or its export for sentence-transformers, to the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vixml.errors import VixmlError, expect_equal
from vixml.files import read_json, sha256_file, write_json, write_text
from vixml.manifest import with_digest
from vixml.tagging.card import without_items
from vixml.tagging.exports.export import MARKER, export
from vixml.tagging.exports.text_encoder import exact_tagger, sample_texts
from vixml.tagging.model_folder import HEADER, NEIGHBOURS, ModelFolder
from vixml.tagging.whole_folder import is_ours

HUBS_OWN = {".gitattributes", "README.md"}  # what a new repository may have


def push(
    model: Path | str, repository: str, form: str = "model", items: bool | None = None, public: bool = False
) -> list[str]:
    """Push in one commit, after which the repository holds the verified files and nothing else; return lines about it.

    The token is that of ``hf auth login`` or of the variable ``HF_TOKEN``; it is in no message.

    Args:
        repository: OWNER/NAME; made if there is none. It may hold an earlier push, and nothing else.
        form: ``model`` or ``sentence-transformers``.
        items: whether the training items of a model folder are pushed, too. None refuses a folder that holds them:
            whoever may read the repository can read them.

    Raises:
        VixmlError: training items without a word about them, a repository that is public or holds something else, or
            a hub that cannot be reached or refuses.
    """
    if repository.count("/") != 1:
        raise VixmlError("not a repository of the hub", where="--out", found=repository, expected="OWNER/NAME")
    with tempfile.TemporaryDirectory(prefix="vixml-push-") as work:
        lines = _prepare(Path(model), Path(work) / "pushed", form, items)
        with _hub_errors(repository):
            commit = _upload(Path(work) / "pushed", repository, public)
    return [*lines, f"{commit}: {'public' if public else 'private'}"]


def _prepare(model: Path, folder: Path, form: str, items: bool | None) -> list[str]:
    """Write what is pushed into ``folder``, verified; return lines about the check."""
    opened = ModelFolder.open(model)
    training = [name for name in opened.header["files"] if name.startswith(f"{NEIGHBOURS}/")]
    if form != "model":
        if items:
            hint = "leave out --items, or push the model folder (--as model)"
            raise VixmlError("this export holds no training items", where=f"--as {form} --items", hint=hint)
        return export(model, form, folder)
    if training and items is None:
        raise VixmlError(
            "the model folder holds training items, which whoever may read the repository can read",
            where=model,
            found=f"{len(opened.items(NEIGHBOURS)):,} items with their texts, labels and vectors",
            hint="--no-items pushes the model without them, --items with them",
        )
    if training and not items and opened.run.inference.method != "label-search":
        what, hint = "the training items vote in this model's inference", "--items pushes them, too"
        raise VixmlError(what, where=model, found=opened.run.inference.method, hint=hint)
    kept = [name for name in opened.header["files"] if items or name not in training]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / name, folder / name)
    header = read_json(model / HEADER)
    header["files"] = {name: header["files"][name] for name in kept}
    if training and not items:
        card = folder / "README.md"
        write_text(card, without_items(card.read_text(encoding="utf-8")))
        header["files"]["README.md"] = {"sha256": sha256_file(card), "bytes": card.stat().st_size}
    write_json(folder / HEADER, with_digest(header))
    mine, copied = exact_tagger(opened), exact_tagger(ModelFolder.open(folder))
    texts = sample_texts(mine)
    tags = [[[tag.id for tag in found] for found in tagger.tag(texts, voters=0)] for tagger in (mine, copied)]
    expect_equal(tags[1], tags[0], "the copy to push gives other tags", where=model)
    return [f"{len(texts)} texts have the model's tags."]


def _upload(folder: Path, repository: str, public: bool) -> str:
    """Commit the folder's files, and delete others; return the address of the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    try:
        is_private = api.model_info(repository).private
    except RepositoryNotFoundError:
        api.create_repo(repository, private=not public)
        is_private = api.model_info(repository).private
    if not public and not is_private:
        hint = "--public pushes there; or name another, or make it private"
        raise VixmlError("the repository is public", where=repository, hint=hint)
    present = set(api.list_repo_files(repository))
    markers = (
        api.hf_hub_download(repository, name, local_dir=folder.with_name("present"))
        for name in sorted(present & {HEADER, MARKER})
    )
    if present - HUBS_OWN and not any(is_ours(Path(marker)) for marker in markers):
        raise VixmlError(
            "the repository holds something else",
            where=repository,
            found=", ".join(sorted(present - HUBS_OWN)[:5]),
            expected="nothing, or an earlier push",
            hint="name another repository",
        )
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    # Not `upload_folder`, which may commit in parts: then an earlier push is gone before this one is there.
    operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
    operations += [CommitOperationDelete(name) for name in sorted(present - files.keys() - {".gitattributes"})]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a Parquet file in a repository of a model
        commit = api.create_commit(repository, operations, commit_message="vixml export")
    tree = api.list_repo_tree(repository, recursive=True, revision=commit.oid)
    pushed = {entry.path: entry.size for entry in tree if hasattr(entry, "size") and entry.path != ".gitattributes"}
    expected = {name: path.stat().st_size for name, path in files.items()}
    expect_equal(pushed, expected, "the repository does not hold what was pushed", where=repository, hint="push again")
    return commit.commit_url


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn the hub's errors into one of ours, without the token."""
    from huggingface_hub import get_token

    try:
        yield
    except VixmlError:
        raise
    except Exception as error:  # its errors come from several HTTP libraries, with other names in each version
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        token = get_token()
        raise VixmlError(
            "the hub cannot be reached, or refuses",
            where=repository,
            found=(said.replace(token, "***") if token else said)[:400],
            hint="`hf auth login` or HF_TOKEN gives a token, which must be allowed to write"
            if token is None or "401" in said or "403" in said
            else "try again; the commit is there whole or not at all",
        ) from None
