"""Making strangers' text fit to show: one line, of bounded length, that moves no cursor."""

DETAIL_LENGTH = 400


def one_line(text: str, most: int = DETAIL_LENGTH) -> str:
    """``text`` as one printable line of at most ``most`` characters; a cut shows as an ellipsis.

    Line breaks, control, format and bidirectional characters become spaces, since the text may
    come from a task or a node and end up on somebody's terminal.
    """
    head = text[: most * 4]
    plain = "".join(letter if letter.isprintable() else " " for letter in head)
    squeezed = " ".join(plain.split())
    if len(squeezed) <= most and len(head) == len(text):
        return squeezed
    return squeezed[: most - 1] + "…"
