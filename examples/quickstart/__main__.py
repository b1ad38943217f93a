"""``python -m examples.quickstart``: put a tiny base and some text in place, run chain.yaml on them, and tell what was gained.

Offline, on a CPU, in minutes; run again, in seconds. Everything goes to `./storage/quickstart` (or `$ALPACA_STORAGE/quickstart`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from examples.quickstart import gains, place
from workloads import __main__ as workloads
from workloads.runtime.console import prepare_process

CHAIN = "examples/quickstart/chain.yaml"
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def main() -> int:
    os.chdir(Path(__file__).parents[2])  # where ./storage is meant to be
    # Matrices this small gain nothing from a second thread, and lose much when the machine does something else beside.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_process()  # before the first library is imported: each reads once whether it may draw progress of its own
    folder = Path(os.environ.get("ALPACA_STORAGE", "storage")) / "quickstart"
    command = f"{os.path.relpath(sys.executable)} -m workloads"

    _title("1. A base that reads English, and Chinese text to learn from")
    place.fill(folder, print)

    _title(f"2. The chain: {command} {CHAIN}")
    code = workloads.main([CHAIN])
    if code != 0:
        return code

    _title("3. What was gained")
    for line in gains.figures(folder):
        print(line)
    for question, answers in gains.answers(folder):
        print(f"\n{BOLD}{question}{PLAIN}")
        for model, answer in answers.items():
            print(f"  {model:<10} {answer}")

    _title("4. Where it lies, and what next")
    print(f"the models side by side     {folder}/report/report.html")
    print(f"the model, and in 4 bits    {folder}/poet, {folder}/poet-4bit")
    print(f"where it comes from         {command} lineage {folder}/poet")
    print(f"go on                       edit {CHAIN}, then {command} {CHAIN}")
    print("                            what you changed is made again, with what depends on it; the rest is reused")
    print(f"on a cluster                the same file: kubectl apply -f {CHAIN} (README.md)")
    return 0


def _title(text: str) -> None:
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
