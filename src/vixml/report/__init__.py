"""Tables, figures and the report, made from result files only.

Nothing here trains, encodes or searches; this room reads what other stages wrote (docs/formats.md), the published
numbers in ``config/reported`` and the shapes of the tables in ``config/tables``.
"""
