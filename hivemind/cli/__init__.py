"""The command line: every command goes through ``client``, but for those that run a daemon.

Start with ``main``, which knows where each command is; a command's module is imported when it is
called, and imports what is heavy when it runs, so that ``hivemind --help`` costs little.
``options`` reads what a task is asked to be, ``foreground`` is the heart of ``run``, ``statuses``
its table of exit statuses, ``daemons`` runs the master and the workers.

What is printed goes through ``output`` (for people or as JSON), a task's own bytes through
``streams``, and every fault through ``faults``: one line on standard error and an exit status.
Nothing imports this package.
"""
