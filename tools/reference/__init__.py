"""hivemind/REFERENCE.md, made from what the code itself says.

Whatever can be given to HiveMind is in it: commands and options, daemon settings, policy keys, what
a task's own file may say, environment variables. What has no description makes it fail.
"""
