# A killed run leaves its lock: say so in our own words, with the command that clears it, before Snakemake refuses.
#
# REQUIRED INPUTS: none.
# OUTPUTS: none.
import psutil


def running_here():
    """Return the numbers of other Snakemake processes of this folder."""
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            words, folder = process.cmdline(), process.cwd()
        except psutil.Error:
            continue  # gone meanwhile, or another user's
        if (
            process.pid not in own
            and folder == str(Path.cwd())
            and any(Path(word).name == "snakemake" for word in words[:2])
        ):
            found.append(process.pid)
    return found


# A job that a batch system started on another node looks at the lock of the process that waits for it.
if not {"--unlock", "--nolock", "--mode", "-n", "--dry-run"} & set(sys.argv):
    if any(Path(".snakemake/locks").glob("*.lock")) and not running_here():
        print(
            "This folder is locked by a run that was killed; nothing runs here any more. What it finished is kept.\n"
            "  what now: snakemake --unlock\n"
            "            then the same command again; a training goes on from its checkpoint",
            file=sys.stderr,
        )
