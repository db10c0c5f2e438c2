"""The worker: takes tasks from its master, and from direct callers, and runs each in a sandbox.

Start with ``app.open_worker``, which puts it together. ``identity`` says who the worker is,
``link`` (with ``conversation`` and ``lease``) keeps the one connection to the master, ``runner``
(with ``refusal``, ``execution``, ``build`` and ``ending``) runs what comes over it. Between the two
stands ``held``: what runs, and what the master has not yet confirmed. ``attempt_log`` and
``outbox`` keep both on disk, ``transfers`` moves what is too large for the link, and ``recovery``
takes up what an earlier worker of this home left behind. ``scope`` is for a program that starts a
worker as an ordinary user.

``front`` is the worker's own server, ``gate`` (with ``keyring``) knows who may call it, and
``direct`` (with ``direct_task`` and ``shelf``) runs what callers hand in. They and the runner take
from one ``room``.

Only ``hivemind.cli`` may import this package. It is the only one that imports ``sandbox``.
"""
