"""The command line: one verb a stage, one stage a rule."""
