# What every stage's rule has: a log, a benchmark and an environment, written once. Included behind all rules.
#
# REQUIRED INPUTS: the rules of the files before this one.
# OUTPUTS: results/logs/{rule}/{names of the job}.log; results/benchmarks/{rule}/{names of the job}.tsv.
for one in workflow.rules:
    if one.output and not one.log:
        # Pages have no wildcards and lie apart, by the name of the configuration.
        folder, name = (RESULTS, names_in(one.output[0])) if one.wildcard_names else (PAGES, "")
        one.log_modifier = one.benchmark_modifier = workflow.modifier.path_modifier
        one.set_log(f"{folder}/logs/{one.name}/{name}".rstrip("/") + ".log")
        one.benchmark = f"{folder}/benchmarks/{one.name}/{name}".rstrip("/") + ".tsv"
        one.conda_env = ENVIRONMENT
