# What every stage's rule has: a log, a benchmark and an environment, written once. Included behind all rules.
#
# REQUIRED INPUTS: the rules of the files before this one.
# OUTPUTS: results/logs/{rule}/{names of the job}.log; results/benchmarks/{rule}/{names of the job}.tsv.
for one in workflow.rules:
    if one.output and not one.log:
        one.log_modifier = one.benchmark_modifier = workflow.modifier.path_modifier
        one.set_log(record_of(one, "logs", ".log"))
        one.benchmark = record_of(one, "benchmarks", ".tsv")
        one.conda_env = ENVIRONMENT
