"""Whether a grammar is made in bounded time: one with many patterns is made in a process of its own first, which the kernel ends.

Patterns that one text has to fit at once (`allOf`) are put together in time that grows as a power of their number, and each of
`patternProperties` is compared with every other; llguidance bounds neither. A thread that makes a grammar cannot be ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from workloads.serving.engine.tools.grammar import GrammarError

FEW = 10
"""Patterns of any kind that are put together within 30 ms."""
SECONDS = 2
"""Of a processor, for a grammar with more. Two hundred fields with a pattern each take 0.1."""
MAKING = """
import resource, sys
seconds = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
from llguidance import LLMatcher
LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(sys.stdin.buffer.read().decode()))
"""


class EndlessGrammarError(GrammarError):
    """A grammar that takes too long to be made."""


def check(grammar: str) -> None:
    """Raises EndlessGrammarError. Of what else is wrong with it nothing is said."""
    if not _has_many_patterns(grammar):
        return
    made = subprocess.run(
        [sys.executable, "-c", MAKING, str(SECONDS)], input=grammar.encode(), capture_output=True, check=False
    )
    if made.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise EndlessGrammarError(
            f"its patterns take more than {SECONDS} s of a processor to be put together: use fewer of pattern and patternProperties"
        )
    made.check_returncode()


def _has_many_patterns(grammar: str) -> bool:
    """Whether there may be; names of fields that are called so count too. Of patternProperties one has any number."""
    return '"patternProperties"' in grammar or sum(map(grammar.count, ('"pattern"', '"format"'))) > FEW
