"""Import published vectors: seconds, bytes per second and peak memory, at several sizes.

python benchmarks/import_vectors.py --megabytes 250 500 1000 --folder /var/tmp

The files are written first, as their publisher does: float32 rows, and a pickled map of three rows per item. Then the stage
runs in a process of its own, whose peak memory is that of the process (VmHWM), less what it had before the stage began.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from origin import record

from vixml.data.corpus import QUERY_SPLITS, SPLITS, CorpusWriter
from vixml.provenance import stage

DIM, PER_ITEM = 1152, 3
STAGE = """
import json, sys, time
from pathlib import Path
from vixml.config.registry import VisionModel
from vixml.images.import_vectors import Published, import_vectors

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

place = Path(sys.argv[1])
files = {s: Published(place / f"{s}.npy", place / f"{s}_map.npy") for s in ("train", "test", "label")}
eyes = VisionModel(title="E", checkpoint="none", kind="hub", image_size=32, dim=1152, licence="none")
before, started = peak(), time.perf_counter()
import_vectors(place / "corpus", files, "eyes", eyes, place / "embeddings")
print(json.dumps({"seconds": round(time.perf_counter() - started, 2), "before_mib": before, "peak_mib": peak()}))
"""


def write(place: Path, n_items: dict[str, int]) -> None:
    """Write a corpus, and for each split a matrix and a map."""
    with stage(place / "corpus", "build-corpus", config={}, inputs={}) as work:
        writer = CorpusWriter(work)
        for split in ("label", *QUERY_SPLITS):
            with writer.split(split) as add:
                for item in range(n_items[split]):
                    add(str(item), str(item), [0] * (split in QUERY_SPLITS))
        writer.finish(facts={})
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2048, DIM)).astype(np.float32)
    for split, n in n_items.items():
        with open(place / f"{split}.npy", "wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (PER_ITEM * n, DIM)}
            np.lib.format.write_array_header_1_0(stream, header)
            for first in range(0, PER_ITEM * n, len(noise)):
                noise[: PER_ITEM * n - first].tofile(stream)
        rows = np.empty(n, dtype=object)
        for item in range(n):
            rows[item] = [PER_ITEM * item, PER_ITEM * item + 1, PER_ITEM * item + 2]
        np.save(place / f"{split}_map.npy", rows, allow_pickle=True)


def main() -> None:
    """Time every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--folder", type=Path, help="where the files are written; needs twice their size")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    found = []
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            total = megabytes * 10**6 // (4 * DIM * PER_ITEM)
            n_items = {"train": total // 2, "test": total // 4, "label": total // 4}
            assert set(n_items) == set(SPLITS)
            write(Path(folder), n_items)
            size = sum(path.stat().st_size for path in Path(folder).glob("*.npy"))
            done = subprocess.run([sys.executable, "-c", STAGE, folder], check=True, capture_output=True, text=True)
        row = {"input_mb": round(size / 1e6), "items": sum(n_items.values()), **json.loads(done.stdout)}
        row |= {"mb_per_second": round(size / 1e6 / row["seconds"]), "grown_mib": row["peak_mib"] - row["before_mib"]}
        found.append({key: round(value, 2) for key, value in row.items()})
        print(found[-1], flush=True)
    if arguments.out:
        record(arguments.out, {"imports": found})


if __name__ == "__main__":
    main()
