"""The launcher: what lives in a cell, and starts one task after the other in it.

It runs inside the cell's sandbox, under the Python that tasks find there, with the standard library
alone; the spawner puts a copy of this folder and of `sandbox.spawner` where the cell sees them. A
cell has up to two such processes, which differ in nothing but how a task begins: the one that came
first executes commands, the other is a whole interpreter kept warm, which forks for a Python task.

Modules, in the order of one run:

- `main` is the program; `serve` has the next run's init ready, and tells the pool of its end;
- `init` is pid 1 of the run's own namespaces: it mounts, waits for the pool's message, gives up
  every right, stages the inputs, starts the task and waits for it;
- `confine` holds what it gives up and mounts, `command` how a command is found and executed;
- `warm` makes a fork of the warm interpreter behave like a new one, with `streams` for its standard
  streams and `unseen` for ending it early where nobody can tell;
- `answers` words what the pool is told.

Nothing of the host is visible from here, and no task of the cell's can see this process: it lives
in a pid namespace above theirs, and what it mounted for itself is covered before a task begins.
"""
