"""A checkpoint of the model hub to a model folder: its own files, or its text part, never a pickle.

Nothing is held in memory: only the safetensors headers are looked at, shards are moved or copied whole, and the text part
of a multi-modal checkpoint is cut out byte by byte. The published precision is kept.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vixml.config.world import TextModel
from vixml.errors import VixmlError
from vixml.files import atomic_path, read_json, write_json

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# `model*`: some repositories carry a second copy of the weights under another name.
PATTERNS = (CONFIG, "model*.safetensors", INDEX, *TOKENIZER_FILES)
REQUIRED = f"{CONFIG}, {WEIGHTS} (or its shards and {INDEX}), {TOKENIZER_FILES[0]}, {TOKENIZER_FILES[1]}"
TEXT_PART = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)(.+)$")
CHUNK = 8 << 20


def placed_folder(raw_dir: Path, checkpoint: str) -> Path:
    """Return where a checkpoint may be placed by hand.

    Example:
        >>> placed_folder(Path("results/raw"), "Qwen/Qwen2.5-3B").as_posix()
        'results/raw/hub/Qwen--Qwen2.5-3B'
    """
    return raw_dir / "hub" / checkpoint.replace("/", "--")


def placed_files(raw_dir: Path, checkpoint: str) -> dict[str, Path]:
    """Return the files of a checkpoint placed by hand that this stage reads, by name; empty if there is no such folder.

    Raises:
        VixmlError: the folder is there, but not whole.
    """
    folder = placed_folder(raw_dir, checkpoint)
    if not folder.exists():
        return {}
    index = [INDEX] if (folder / INDEX).is_file() else []
    return {name: folder / name for name in [CONFIG, *index, *_weight_files(folder), *_tokenizer_files(folder)]}


def prepare_hub(entry: TextModel, raw_dir: Path, work: Path, facts: dict[str, Any]) -> None:
    """Write a hub checkpoint's config, weights and tokenizer into ``work``.

    A folder placed by hand goes before the hub. An interrupted download is gone on with by the next call.

    Args:
        entry: names the checkpoint and, where it is pinned, the revision.
        raw_dir: folder of fetched files (results/raw).
        work: the folder to fill.
        facts: is told `origin` (`hub` or `placed by hand`), `revision` (the commit; null where a folder was placed) and
            `unused_tensors` (in the files, but not read by the network: the head over the vocabulary, for example).

    Raises:
        VixmlError: the hub cannot be reached or refuses, or the files are not those of a checkpoint.
    """
    folder = placed_folder(raw_dir, entry.checkpoint)
    placed = folder.exists()
    revision = None
    if not placed:
        folder = folder.with_name(f".download-{folder.name}")
        revision = _download(entry, folder, placed_folder(raw_dir, entry.checkpoint))
    facts |= {"origin": "placed by hand" if placed else "hub", "revision": revision}

    headers = {name: _header(folder / name) for name in _weight_files(folder)}
    _check_index(folder, headers)
    config, names = _text_part(read_json(folder / CONFIG), headers, folder)
    facts["unused_tensors"] = _check_shapes(config, names, headers, folder)
    tokenizer = _tokenizer_files(folder)  # before anything is moved out of a download: what lacks a file stays whole

    write_json(work / CONFIG, config)
    kept = {name: part for name, header in headers.items() if (part := {k: names[k] for k in header if k in names})}
    for name, part in kept.items():
        if part == {key: key for key in headers[name]}:
            _hand_over(folder / name, work / name, copy=placed)
        else:
            _cut_out(folder / name, headers[name], part, work / name)
    if list(kept) != [WEIGHTS]:
        sizes = [_extent(headers[name][key]) for name, part in kept.items() for key in part]
        index = {new: name for name, part in kept.items() for new in part.values()}
        write_json(work / INDEX, {"metadata": {"total_size": sum(sizes)}, "weight_map": index})
    for name in tokenizer:
        _hand_over(folder / name, work / name, copy=placed)
    if not placed:
        shutil.rmtree(folder, ignore_errors=True)


def _download(entry: TextModel, folder: Path, by_hand: Path) -> str:
    """Fetch a checkpoint's files into ``folder``; return the commit they are of."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        commit = HfApi().model_info(entry.checkpoint, revision=entry.revision).sha
        snapshot_download(entry.checkpoint, revision=commit, allow_patterns=list(PATTERNS), local_dir=folder)
        return commit
    except Exception as error:  # its errors come from several HTTP libraries, of another name in each version
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # the stage says what to do
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "check the network"
        if isinstance(error, GatedRepoError) or status in (401, 403):
            hint = "check the name, accept the model's terms on its page and set HF_TOKEN to your token"
        elif isinstance(error, RepositoryNotFoundError) or status == 404:
            hint = "check 'checkpoint' and 'revision' in config/models.yaml"
        raise VixmlError(
            f"cannot fetch {entry.checkpoint} from the model hub",
            where=f"revision {entry.revision or 'newest'}",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}",
            hint=f"{hint}; or place its files by hand in {by_hand} ({REQUIRED}) and run the same command again",
        ) from error


def _weight_files(folder: Path) -> list[str]:
    """Return the names of a checkpoint's weight files, in order.

    Raises:
        VixmlError: none, one is missing, or a name that is no plain file name.
    """
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        listed = index.get("weight_map") if isinstance(index, dict) else None
        # A name comes from the internet: it must stay inside the folder.
        if not isinstance(listed, dict) or not all(
            isinstance(name, str) and re.fullmatch(r"\w[\w.-]*\.safetensors", name) for name in listed.values()
        ):
            raise VixmlError(
                "not an index of safetensors files", where=folder / INDEX, expected="'weight_map': tensor -> file name"
            )
        names = sorted(set(listed.values()))
    for name in (CONFIG, *names):
        if not (folder / name).is_file():
            others = sorted(path.name for path in folder.glob("*") if path.is_file())
            raise VixmlError(
                "a checkpoint lacks a file",
                where=folder / name,
                found=", ".join(others) or "an empty folder",
                expected=REQUIRED,
                hint="weights in another format (.bin, .pth) run code when they are read: take a checkpoint in safetensors",
            )
    return names


def _tokenizer_files(folder: Path) -> list[str]:
    for name in TOKENIZER_FILES[:2]:
        if not (folder / name).is_file():
            raise VixmlError(
                "a checkpoint lacks a file",
                where=folder / name,
                expected=REQUIRED,
                hint="take a checkpoint whose tokenizer is published as tokenizer.json",
            )
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: name -> dtype, shape and place, checked against the file's length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise VixmlError(
            "a weights file cannot be read",
            where=path,
            found=str(error),
            expected="a whole safetensors file",
            hint="delete it and fetch it again",
        ) from error
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: value for name, value in header.items() if name != "__metadata__"}


def _check_index(folder: Path, headers: Mapping[str, Mapping[str, Any]]) -> None:
    if not (folder / INDEX).is_file():
        return
    listed = read_json(folder / INDEX)["weight_map"]
    found = {key: name for name, header in headers.items() for key in header}
    for key in sorted(listed.keys() | found.keys()):
        if listed.get(key) != found.get(key):
            raise VixmlError(
                "the shards are not those of the index",
                where=f"{folder / INDEX}: {key}",
                found=f"in {found.get(key, 'no shard')}",
                expected=f"in {listed.get(key, 'no shard')}",
                hint="shards and index are of two revisions: fetch them again",
            )


def _text_part(
    config: dict[str, Any], headers: Mapping[str, Mapping[str, Any]], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the configuration of the text part, and the names of its tensors: as published -> as written."""
    from transformers import AutoConfig

    keys = [key for header in headers.values() for key in header]
    # `auto_map` names Python files of the repository; they are never run.
    config = {key: value for key, value in config.items() if key != "auto_map"}
    if "text_config" not in config:
        return config, {key: key for key in keys}
    try:
        settings = AutoConfig.for_model(**config).get_text_config()
    except (ValueError, TypeError, KeyError) as error:
        raise _unknown_architecture(folder, config, error) from error
    text = settings.to_diff_dict()
    dtype = text.get("dtype") or config.get("dtype") or config.get("torch_dtype")
    return text | ({"dtype": dtype} if dtype else {}), {key: m[1] for key in keys if (m := TEXT_PART.match(key))}


def _check_shapes(
    config: dict[str, Any], names: Mapping[str, str], headers: Mapping[str, Mapping[str, Any]], folder: Path
) -> list[str]:
    """Check every parameter of the network; return the tensors that it does not read."""
    import torch
    from transformers import AutoConfig, AutoModel

    from vixml.models.architecture import without_pooler

    try:
        settings = AutoConfig.for_model(**{k: v for k, v in config.items() if k != "transformers_version"})
        with torch.device("meta"):
            model = AutoModel.from_config(settings, **without_pooler(settings))
    except (ValueError, TypeError, KeyError) as error:
        raise _unknown_architecture(folder, config, error) from error
    shapes = {key: value["shape"] for header in headers.values() for key, value in header.items()}
    # A model with a head has the network under a prefix of its own.
    prefix = f"{model.base_model_prefix}."
    found = {new.removeprefix(prefix): (old, tuple(shapes[old])) for old, new in names.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in wanted.items():
        old, there = found.get(name, (name, None))
        if there != shape:
            raise VixmlError(
                "the weights do not fit the architecture",
                where=f"{folder}: {old}",
                found=there or "no such tensor",
                expected=shape,
                hint="config.json and the weights are of two checkpoints, or of a form that is not known here",
            )
    return sorted(old for name, (old, _) in found.items() if name not in wanted)


def _unknown_architecture(folder: Path, config: Mapping[str, Any], error: Exception) -> VixmlError:
    return VixmlError(
        "a checkpoint's architecture is not known to this version of transformers",
        where=f"{folder / CONFIG}: model_type",
        found=f"{config.get('model_type')!r} ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        hint="code that a repository carries is never run: take a checkpoint of an architecture inside transformers",
    )


def _hand_over(source: Path, target: Path, *, copy: bool) -> None:
    # What was placed by hand stays where it is.
    if copy:
        shutil.copyfile(source, target)
    else:
        # The download folder may lie on another disk than the result.
        shutil.move(source, target)


def _extent(entry: Mapping[str, Any]) -> int:
    start, end = entry["data_offsets"]
    return end - start


def _cut_out(source: Path, header: Mapping[str, Any], names: Mapping[str, str], target: Path) -> None:
    """Copy some tensors of a safetensors file byte for byte; ``names`` says which, and what they are called then."""
    order = sorted(names, key=lambda key: (header[key]["data_offsets"], key))
    places, end = {}, 0
    for key in order:
        start, end = end, end + _extent(header[key])
        places[names[key]] = {k: header[key][k] for k in ("dtype", "shape")} | {"data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **places}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(source, "rb") as stream, atomic_path(target) as temporary, open(temporary, "wb") as out:
        first = 8 + int.from_bytes(stream.read(8), "little")
        out.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            stream.seek(first + header[key]["data_offsets"][0])
            out.writelines(_chunks(stream, _extent(header[key])))


def _chunks(stream: Any, n_bytes: int) -> Iterable[bytes]:
    while n_bytes:
        piece = stream.read(min(CHUNK, n_bytes))
        n_bytes -= len(piece)
        yield piece
