"""What people write down for HiveMind: daemon configuration, policies, the home, credentials.

TOML files become frozen records, strictly: an unknown key, a wrong type or a bad quantity is one
line that names the file, the key and what was expected. Nothing here is guessed or repaired.

``daemon`` holds the configuration of master and worker, ``policies`` reads core's ``Profile`` and
``PoolRules``, ``home`` finds and makes the home, ``credentials`` keeps a token in it. Below them,
``tables`` and ``values`` turn a parsed file into a record. The daemons and the client import this
package; it imports core alone. Start with ``daemon`` or ``policies``.
"""
