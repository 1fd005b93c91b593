# A killed run leaves its lock: explain this, with the commands that clear it, before Snakemake refuses.
#
# REQUIRED INPUTS: none.
# OUTPUTS: none.
from vixml.check.doctor import explain_lock

# A job that a batch system starts on another node sees the lock of the process that waits for it.
if not {"--unlock", "--nolock", "--mode", "-n", "--dry-run", "--dryrun"} & set(sys.argv):
    if LOCKED := explain_lock(Path.cwd()):
        print(LOCKED, file=sys.stderr)
