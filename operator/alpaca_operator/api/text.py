"""A line that has to fit somewhere: what is said of a long name must not be lost behind the name."""

from collections.abc import Callable

NAME_SIZE = 120
"""Characters that are kept of a long path or URI: its head and its tail."""


def fitted(text: str, limit: int, size: Callable[[str], int] = len) -> str:
    """``text`` of at most ``limit`` by ``size``: long paths and URIs are shortened in their middle first, the longest before the others, and
    only then the end is cut, never within a character."""
    words = text.split(" ")
    names = [index for index, word in enumerate(words) if "/" in word and len(word) > NAME_SIZE]
    for index in sorted(names, key=lambda index: len(words[index]), reverse=True):
        if size(" ".join(words)) <= limit:
            break
        words[index] = f"{words[index][: NAME_SIZE * 2 // 3]}…{words[index][-(NAME_SIZE // 3 - 1) :]}"
    line = " ".join(words)
    if size(line) <= limit:
        return line
    low, high = 0, len(line)
    while low < high:  # the longest start that fits with its ellipsis
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(f"{line[:middle]}…") <= limit else (low, middle - 1)
    return f"{line[:low]}…"
