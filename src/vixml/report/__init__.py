"""Tables, figures and the report, made from result files only.

Nothing here trains, encodes or searches: this package reads the results of other stages (docs/formats.md), the published
values in ``config/reported`` and the layouts of tables in ``config/tables``.
"""
