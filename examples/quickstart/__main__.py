"""``python -m examples.quickstart``: make a tiny base model, fine-tune it by sft-job.yaml, and compare its answers.

Offline, on a CPU, in a minute or two. Everything goes to `./storage/quickstart` (or `$ALPACA_STORAGE/quickstart`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MANIFEST = "examples/quickstart/sft-job.yaml"
QUESTIONS = ("《静夜思》的作者是谁？", "“红豆生南国”的下一句是什么？", "请背诵《江雪》。")
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def main() -> int:
    root = Path(__file__).parents[2]
    os.chdir(root)  # the manifest's paths are relative to the repository
    # Matrices this small gain nothing from a second thread, and lose much when the machine does something else beside.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    storage = Path(os.environ.get("ALPACA_STORAGE", "storage"))
    base, poet = storage / "quickstart" / "base", storage / "quickstart" / "poet"

    _title("1. A base model")
    if (base / "config.json").is_file():
        print(f"{base} is there already")
    else:
        _make_base(base)

    _title(f"2. Fine-tuning: python -m workloads.sft {MANIFEST}")
    finished = subprocess.run([sys.executable, "-m", "workloads.sft", MANIFEST], check=False)
    if finished.returncode != 0:
        return finished.returncode

    _title("3. The loss")
    from workloads import card

    print(card.chart(card.Curves.read(poet / card.TABLE)))

    _title("4. Three questions of the set, before and after")
    from examples.quickstart.answers import compare

    for question, before, after in compare(base, poet, QUESTIONS):
        print(f"{BOLD}{question}{PLAIN}")
        print(f"  before: {_shown(before)}")
        print(f"  after:  {_shown(after)}")

    print(f"\nThe adapter lies in {BOLD}{poet}{PLAIN}; its model card is {poet / 'README.md'}.")
    print(f"Ask it for more: change {MANIFEST} (docs/api.md has every field) and run the command of step 2 again.")
    return 0


def _make_base(base: Path) -> None:
    """In one piece: a run that is interrupted here leaves nothing that the next would take for a model."""
    from examples.quickstart.base import make

    partial = base.with_name(".base.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    make(partial, print)
    partial.rename(base)
    print(f"in {base}")


def _title(text: str) -> None:
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def _shown(answer: str) -> str:
    return " / ".join(answer.split("\n")) or "(nothing)"


if __name__ == "__main__":
    sys.exit(main())
