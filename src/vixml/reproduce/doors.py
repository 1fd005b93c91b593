"""What each door to the workflow needs of the machine: a conda client, a SLURM with the partitions named, a DVC remote.

Each check is asked before any work starts, and says in one message what is missing and what to do.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from vixml.errors import VixmlError

SEVERAL = 8  # names of partitions that are worth listing


def require_conda() -> None:
    """Check that Snakemake will find a conda client.

    Raises:
        VixmlError: there is none.
    """
    if shutil.which("conda") is None:
        raise VixmlError(
            "--use-conda needs a conda client, and there is none",
            found="no `conda` on PATH",
            expected="conda 24.7.1 or newer (Miniforge brings it)",
            hint="install one and activate it; or leave --use-conda out: then jobs run in the environment of `make install`",
        )


def require_slurm(partitions: Iterable[str]) -> None:
    """Check that SLURM answers here, and that it has every partition that jobs will be sent to.

    Args:
        partitions: names; one entry may be several, joined by commas, as ``sbatch`` takes them.

    Raises:
        VixmlError: no SLURM, no answer, or no such partition.
    """
    where = "profiles/slurm/config.yaml: slurm_partition"
    absent = [program for program in ("sinfo", "sbatch", "squeue") if shutil.which(program) is None]
    if absent:
        raise VixmlError(
            "jobs are to go to SLURM, and this machine has none",
            found=f"no `{'`, `'.join(absent)}` on PATH",
            hint="give the command on a node of the cluster (`module load slurm` on some); or leave --profile profiles/slurm out",
        )
    done = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True)
    if done.returncode:
        raise VixmlError(
            "SLURM does not answer",
            found=(done.stderr or done.stdout).strip().splitlines()[0],
            hint="try `sinfo`; when it lists partitions again, give the same command again",
        )
    offered = sorted(set(done.stdout.split()))
    for name in sorted({part for named in partitions for part in named.split(",")} - set(offered)):
        shown = ", ".join(offered[:SEVERAL]) + (f" and {len(offered) - SEVERAL} more" if len(offered) > SEVERAL else "")
        raise VixmlError(
            f"SLURM has no partition {name!r}",
            where=where,
            found=f"sinfo lists: {shown}",
            hint=f"name one of them there, or on the command line: --default-resources slurm_partition={offered[0]}"
            if offered
            else "ask your administrators for a partition",
        )


def require_array(rule: str, jobs: int, limit: int, at_once: int) -> None:
    """Check that a job array can be filled: the executor holds its jobs back until as many are ready, else for ever.

    Args:
        rule: whose jobs become arrays.
        jobs: of that rule, to be run.
        limit: jobs in one array at most (``--slurm-array-limit``, SLURM's own ``MaxArraySize``).
        at_once: jobs of that rule that may be under way together, by ``jobs`` and ``resources``.

    Raises:
        VixmlError: an array has more places than jobs may be under way.
    """
    if min(jobs, limit) > at_once:
        raise VixmlError(
            f"an array of {min(jobs, limit)} jobs of {rule} would never be submitted",
            where="profiles/slurm/config.yaml: jobs, resources",
            found=f"at most {at_once} of them may be under way at once",
            hint=f"give --slurm-array-limit {at_once}, or allow more jobs and GPUs",
        )


def require_remote(root: Path, name: str | None = None, *, filled: bool = False) -> str:
    """Check that DVC has a remote, and that it can be reached.

    Args:
        root: the repository.
        name: of the remote; the default one without it.
        filled: whether a folder must be there already, as for a pull; a push makes it, but never the disk under it.

    Returns:
        The remote's address.

    Raises:
        VixmlError: no remote, or one that does not answer.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    where = ".dvc/config, .dvc/config.local"
    add = "dvc remote add --default shared PLACE (a folder, s3://..., gs://..., ssh://...; docs/dvc.md)"
    try:
        with Repo(str(root)) as repo:
            known = sorted(repo.config["remote"])
            chosen = name or repo.config["core"].get("remote")
            if chosen is None or chosen not in known:
                raise VixmlError(
                    f"DVC knows no remote {chosen!r}" if chosen else "DVC has no default remote",
                    where=where,
                    found=f"remotes: {', '.join(known) or 'none'}",
                    hint=f"name one of them, or add one: {add}" if known else add,
                )
            remote = repo.cloud.get_remote(chosen)
            address = remote.fs.unstrip_protocol(remote.path)
            place = remote.path
            if remote.fs.protocol == "local" and not filled:
                place = str(Path(place).parent)
            if not remote.fs.exists(place):
                raise VixmlError(
                    f"the DVC remote {chosen!r} is not there",
                    where=where,
                    found=f"nothing at {place}",
                    hint=f"mount or make it, or put it right: dvc remote modify {chosen} url PLACE",
                )
            return address
    except VixmlError:
        raise
    except (DvcException, ImportError, OSError) as error:
        raise VixmlError(
            f"the DVC remote {name or 'that is the default'} cannot be reached",
            where=where,
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint="s3:// needs `pip install dvc-s3`, gs:// dvc-gs, ssh:// dvc-ssh; credentials: docs/dvc.md",
        ) from None
    except Exception as error:  # each kind of store has errors of its own
        raise VixmlError(
            f"the DVC remote {name or 'that is the default'} does not answer",
            where=where,
            found=f"{type(error).__name__}: {error}".splitlines()[0],
            hint="check its address (dvc remote list) and credentials (docs/dvc.md)",
        ) from None
