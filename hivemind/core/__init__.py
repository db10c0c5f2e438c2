"""What HiveMind is, without doing anything: records and the pure rules between them.

Everything here is attrs and the standard library; there is no Trio, no I/O, no clock and no
randomness. A function that needs the time or random bytes takes them as arguments, so the same
inputs always give the same answer and the tests need no fakes.

Start with ``records`` (the nouns) and ``lifecycle`` (what happens to a task, and when). ``queue``,
``placement`` and ``explain`` decide who runs next, where, and why something still waits.
Every other package of hivemind may import this one; it imports none of them.
"""
