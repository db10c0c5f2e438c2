"""The master: the one daemon that knows every account, node and task.

``app.open_master`` puts it together. One task, ``reactor.Reactor.run``, owns the cluster's state:
commands come into its inbox, a turn applies them to copies, one transaction makes them durable,
and only then does anybody see them (``turn``, ``cluster``, ``commands``). Everything else is around
it: ``tasks``, ``accounts``, ``nodes`` and ``links`` serve the calls, ``output`` keeps what tasks
print, ``results`` makes zips.

The command line may import this package; it imports the floors below and neither the worker nor
the client.
"""
