"""What runs inside a cell: programs of our own that start a tenant's tasks there.

Nothing here is imported by the rest of `sandbox`. The files are seen by a cell as they are and run
by the system's python3, 3.9 or newer, so each imports the standard library and its neighbours in
this folder alone. Begin reading at `warm`: how a fork of a warm interpreter becomes a fresh one.
"""
