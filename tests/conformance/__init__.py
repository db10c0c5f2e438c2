"""What `python3 script.py` does, as a table: the reference for every other way to start it.

`case` has the record, `starting` to `batteries` the table by themes, `test_conformance` runs it in
the sandbox, `test_warm` on this machine alone, through `warm_main`.
"""
