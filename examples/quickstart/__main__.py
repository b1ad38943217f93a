"""``python -m examples.quickstart``: put a tiny base and some text in place, run chain.yaml on them, and tell what was gained.

Offline, on a CPU, in minutes; run again, in seconds. Everything goes to `./storage/quickstart` (or `$ALPACA_STORAGE/quickstart`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from examples.quickstart import gains, place
from workloads import __main__ as workloads

CHAIN = "examples/quickstart/chain.yaml"
QUESTIONS = ("《静夜思》的作者是谁？", "“红豆生南国”的下一句是什么？", "请背诵《江雪》。")
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def main() -> int:
    os.chdir(Path(__file__).parents[2])  # where ./storage is meant to be
    # Matrices this small gain nothing from a second thread, and lose much when the machine does something else beside.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(os.environ.get("ALPACA_STORAGE", "storage")) / "quickstart"

    _title("1. A base that reads English, and Chinese text to learn from")
    place.fill(folder, print)

    _title(f"2. The chain: python -m workloads {CHAIN}")
    code = workloads.main([CHAIN])
    if code != 0:
        return code

    _title("3. What was gained")
    for line in gains.lines(folder):
        print(line)
    from examples.quickstart.answers import answers

    given = answers(folder, QUESTIONS)
    for question in QUESTIONS:
        print(f"\n{BOLD}{question}{PLAIN}")
        print(f"  before: {_shown(given['base'][question])}")
        print(f"  after:  {_shown(given['poet'][question])}")

    _title("4. Where it lies, and what next")
    print(f"{folder}/vocabulary  the tokenizer; README.md there has its figures and a picture")
    print(f"{folder}/poet        the model; python -m workloads lineage {folder}/poet tells what it was made from")
    print(f"Change {CHAIN} and run step 2's command again: what you changed is made anew, with all that depends on it.")
    print("The same file on a cluster: README.md, \"On a cluster\".")
    return 0


def _title(text: str) -> None:
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def _shown(answer: str) -> str:
    return " / ".join(answer.split("\n")) or "(nothing)"


if __name__ == "__main__":
    sys.exit(main())
