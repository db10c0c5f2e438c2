"""Real daemons against callers that send anything: messages, frames, and connections.

`schema` knows what is served, and makes messages of it; `peer` sends them; `daemons` watches what
they cost. Everything goes to loopback, and is bounded in number and time: `just test` takes a small
part, `just fuzz` goes on for long.
"""
