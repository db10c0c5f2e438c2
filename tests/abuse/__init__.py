"""The abuse suite: hostile programs through the real sandbox, and looks at them from outside.

Each test's name is the promise it tries to break. Its number is that of the list in `test_suite`,
1 to 64 the known attacks, 65 and up our own. All of them are harmless where they succeed.

Begin at `arena` (a pool with canaries beside it, and what is checked after each case), then `modes`
(the ways in which a pool may run a task: the suite runs in each), then the tests by theme.
"""
