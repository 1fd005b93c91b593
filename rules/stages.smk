# Log, benchmark, environment and settings of every stage, and the message of every target. Included after all rules.
#
# REQUIRED INPUTS: the rules of the files before this one.
# OUTPUTS: results/logs/{rule}/{names of the job}.log; results/benchmarks/{rule}/{names of the job}.tsv; for pages, the same in the
#   folder of the pages.
for one in workflow.rules:
    if not one.output:
        one.message = f"The target {one.name} is up to date"
    elif not one.log:
        # The path contains the names of the job.
        names = [part for part in Path(strip_wildcard_constraints(one.output[0])).parts if "{" in part]
        record = Path(RESULTS if names else PAGES, "{kind}", one.name, *names).as_posix()
        one.log_modifier = one.benchmark_modifier = workflow.modifier.path_modifier
        one.set_log(record.replace("{kind}", "logs") + ".log")
        one.benchmark = record.replace("{kind}", "benchmarks") + ".tsv"
        one.conda_env = "../envs/gpu.yaml" if WITH_GPU else "../envs/cpu.yaml"
        # The hash of a raw file decides what it must be, so an edit of code never downloads it again.
        if (stage := re.search(r"\bvixml ([\w-]+)", one.shellcmd)[1]) != "download":
            one.set_params(**obeys(stage))
