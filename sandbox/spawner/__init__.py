"""The spawner: a small single-threaded process that starts every sandbox of one pool.

It runs as `python -I -S`, with an empty environment and the standard library alone, in mount and
pid namespaces of its own. Everything that it starts lives below it: when it ends, for whatever
reason, the kernel kills all of it and drops every mount.

Modules, in the order of one run:

- `__main__` makes the namespaces; `serve` answers the pool's messages;
- `house` lays out the private file tree and mounts what each slot's run sees; `root` makes those
  trees, with the `etc` that they hold, and `mounts` shows the host's files without their paths;
- `spare` makes namespaces ahead of time;
- `child` is the process that becomes the sandbox: it joins the cgroup, gives up every privilege,
  has `stage` (with `archive`, and `capped` for what a tar may read) put the inputs in place, sets
  `limits`, and executes bubblewrap with the command
  line of `bwrap` and the filter of `seccomp` (assembled by `bpf`, numbers from `syscalls`);
- `cell` is the process that becomes a cell, with `sandbox.launcher` in it;
- `collect` writes a finished task's output as a tar;
- `linux` holds the system calls that Python lacks, `datagrams` sends descriptors.

Nothing here may import attrs, trio or the rest of `sandbox`; only `sandbox.link` starts it.
"""
