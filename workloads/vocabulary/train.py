"""Training of a new vocabulary by sentencepiece, in a process of its own.

A process of its own because sentencepiece cannot be interrupted, tells how far it is on file descriptor 2 only, and takes 25 to 50
times its text in memory, which should be free again before anything else is loaded.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from workloads.data.corpus import UNUSABLE, CorpusFile, Tally, sentences, texts
from workloads.errors import DataError, OutOfMemory, WorkloadError

META_PIECES = 259
"""`<unk>`, `<s>`, `</s>` and the 256 bytes."""
HELD_OUT = 2000
"""Most sentences set aside for measuring what the vocabulary gains on text that it was not trained on."""
HELD_OUT_EVERY = 100
"""Of so many sentences one is set aside; where that makes more than HELD_OUT, those are drawn evenly."""
SEED = 42
LINES_AT_ONCE = 10_000
"""Sentences handed to sentencepiece in one write."""
CHARACTER_SHARE = 0.5
"""Where the characters do not fit the vocabulary, so much of it goes to them and the rest to longer pieces."""

Tell = Callable[[str, int, int], None]
"""Called with what is done (`read` bytes, `merge` pieces), how much of it, and of how much."""


@dataclass(frozen=True)
class Settings:
    """What shapes the new vocabulary."""

    vocab_size: int
    character_coverage: float
    input_sentence_size: int


@dataclass
class Trained:
    """A vocabulary and what it was made from."""

    model: bytes = b""
    """The serialized ModelProto."""
    tally: Tally = field(default_factory=Tally)
    sentences: int = 0
    """In the text, those set aside not counted."""
    held_out: list[str] = field(default_factory=list)
    """Sentences that it was not trained on, where there are enough."""
    character_coverage: float = 1.0
    notes: list[str] = field(default_factory=list)
    """Sentences for the user: what was decided for them."""


def train(files: Sequence[CorpusFile], settings: Settings, tally: Tally, tell: Tell) -> Trained:
    """A vocabulary of the text in ``files``; what is read is counted on from ``tally``, in a copy. Raises DataError for text that cannot be read, or none at all."""
    context = multiprocessing.get_context("spawn")
    answers, child_answers = context.Pipe(duplex=False)
    log, child_log = context.Pipe(duplex=False)
    child = context.Process(
        target=_main,
        args=(child_answers, child_log, list(files), settings, tally),
        daemon=True,
        name="vocabulary-training",
    )
    child.start()
    child_answers.close()
    child_log.close()
    try:
        outcome = _follow(answers, log, settings.vocab_size, tell)
        if outcome is None:
            child.join()
            raise _died(child.exitcode)
    finally:
        child.terminate()
        child.join()
        answers.close()
        log.close()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _follow(answers: Connection, log: Connection, vocab_size: int, tell: Tell) -> Trained | BaseException | None:
    """The child's answer, None when it ended without one. Tells how far it is until then."""
    progress = _Log(vocab_size, tell)
    open_ends = [answers, log]
    while open_ends:
        for end in wait(open_ends):
            if end is log:
                chunk = os.read(log.fileno(), 65536)
                if chunk:
                    progress.feed(chunk)
                else:
                    open_ends.remove(log)
            else:
                try:
                    answer: Trained | BaseException | tuple[int, int] = answers.recv()
                except EOFError:
                    open_ends.remove(answers)
                    continue
                if not isinstance(answer, tuple):
                    while log.poll() and (chunk := os.read(log.fileno(), 65536)):
                        progress.feed(chunk)
                    return answer
                tell("read", *answer)
    progress.show()
    return None


def _died(code: int | None) -> WorkloadError:
    if code == -signal.SIGKILL:
        return OutOfMemory(
            "the training of the vocabulary was killed, most likely for want of memory: lower train.inputSentenceSize, or ask for more "
            "memory in pod.resources.limits"
        )
    return WorkloadError(
        f"the training of the vocabulary ended by itself (exit code {code}): what it wrote is in the log"
    )


class _Log:
    """sentencepiece's log: says how many pieces are merged, and keeps the last lines for the case that it dies."""

    ALPHABET = re.compile(rb"Alphabet size=(\d+)")
    MERGED = re.compile(rb"merges=(\d+)")

    def __init__(self, vocab_size: int, tell: Tell) -> None:
        self._vocab_size = vocab_size
        self._tell = tell
        self._alphabet = 0
        self._rest = b""
        self._last: deque[bytes] = deque(maxlen=40)

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._last.extend(lines)
        for line in lines:
            if alphabet := self.ALPHABET.search(line):
                self._alphabet = META_PIECES + int(alphabet[1])
        merged = [match for line in lines if (match := self.MERGED.search(line))]
        if merged:
            self._tell("merge", self._alphabet + int(merged[-1][1]), self._vocab_size)

    def show(self) -> None:
        for line in [*self._last, self._rest]:
            print(line.decode("utf-8", "replace"), file=sys.stderr)


def _main(answers: Connection, log: Connection, files: list[CorpusFile], settings: Settings, tally: Tally) -> None:
    """The child: sends ``(bytes read, of bytes)``, then the result or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(log.fileno(), 2)
    try:
        outcome: Trained | WorkloadError = _train(files, settings, tally, answers)
    except WorkloadError as error:
        outcome = error
    answers.send(outcome)


def _train(files: list[CorpusFile], settings: Settings, tally: Tally, answers: Connection) -> Trained:
    trained = _attempt(files, settings, tally, answers)
    if trained is not None:
        return trained
    room = int((settings.vocab_size - META_PIECES) * CHARACTER_SHARE)
    commonest, coverage, found = _commonest(files, tally, room)
    trained = _attempt(files, settings, tally, answers, only=commonest)
    assert trained is not None, f"{len(commonest)} characters do not fit {settings.vocab_size} pieces"
    trained.character_coverage = coverage
    trained.notes.append(
        f"train.vocabSize {settings.vocab_size} has no room for the text's {found} different characters at train.characterCoverage "
        f"{settings.character_coverage}: the coverage is lowered to {coverage:.4f}, which keeps the {len(commonest)} commonest and leaves "
        "room for longer pieces; raise train.vocabSize to keep more"
    )
    return trained


def _attempt(
    files: list[CorpusFile], settings: Settings, tally: Tally, answers: Connection, only: frozenset[str] | None = None
) -> Trained | None:
    """The trained vocabulary, or None when it is too small for the characters. Given ``only``, it has no others.

    sentencepiece's own coverage cannot be lowered below 0.98; the text is cut at the other characters instead, which has the same
    effect: no piece extends over them.
    """
    import sentencepiece

    coverage = settings.character_coverage if only is None else 1.0
    trained = Trained(tally=deepcopy(tally), character_coverage=coverage)
    lines = _draw(files, settings, trained, answers, only)
    model = io.BytesIO()
    try:
        with _as_file(lines) as path:
            sentencepiece.SentencePieceTrainer.train(
                input=path,
                model_writer=model,
                model_type="bpe",
                vocab_size=settings.vocab_size,
                character_coverage=coverage,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                # Chinese has no space at the start of a line: no piece is spent on one.
                add_dummy_prefix=False,
                byte_fallback=True,
                split_digits=True,
                allow_whitespace_only_pieces=True,
                hard_vocab_limit=False,  # a small text has fewer pieces to give
            )
    except RuntimeError as error:
        if "smaller than required_chars" in str(error):
            return None
        raise WorkloadError(f"sentencepiece cannot train on this text: {error}") from error
    trained.model = model.getvalue()
    return trained


def _draw(
    files: list[CorpusFile], settings: Settings, trained: Trained, answers: Connection, only: frozenset[str] | None
) -> list[str]:
    """The sentences to train on. Sets aside those that gains are measured on."""
    total = sum(file.path.stat().st_size for file in files)
    drawn = Draw(settings.input_sentence_size, random.Random(SEED))
    aside = Draw(HELD_OUT, random.Random(SEED + 1))
    first = HELD_OUT_EVERY - 1
    for block in sentences(texts(files, trained.tally), only):
        length = len(block)
        aside.add(block[first::HELD_OUT_EVERY])
        del block[first::HELD_OUT_EVERY]
        first = (first - length) % HELD_OUT_EVERY
        drawn.add(block)
        answers.send((trained.tally.bytes, total))
    if not drawn.seen:
        raise DataError("dataset.train holds no text: its files are empty")
    trained.sentences = drawn.seen
    if drawn.seen > len(drawn.kept):
        trained.notes.append(
            f"trained on {len(drawn.kept):,} of {drawn.seen:,} sentences, drawn evenly (train.inputSentenceSize)"
        )
    trained.held_out = aside.kept
    if not aside.kept:
        trained.held_out = drawn.kept[:HELD_OUT_EVERY]
        trained.notes.append("too few sentences to set any aside: gains are measured on text that was trained on")
    return drawn.kept


@contextmanager
def _as_file(lines: list[str]) -> Iterator[str]:
    """A path that ``lines`` are read from, once; the list is emptied meanwhile, so that no line is in memory twice.

    sentencepiece also takes an iterator, but a call of Python for each line makes training a tenth slower.
    """
    reading, writing = os.pipe()

    def write() -> None:
        lines.reverse()
        with (
            suppress(BrokenPipeError),
            os.fdopen(writing, "wb") as pipe,
        ):  # broken: sentencepiece has given up, and says why
            while lines:
                some = lines[-LINES_AT_ONCE:]
                del lines[-LINES_AT_ONCE:]
                pipe.write("".join(f"{line}\n" for line in reversed(some)).encode())

    writer = threading.Thread(target=write, name="sentences")
    writer.start()
    try:
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)
        writer.join()


class Draw:
    """An even sample of what is added, in bounded memory (reservoir sampling, algorithm L of Li 1994).

    sentencepiece has one too, but seeds it differently in every process.
    """

    def __init__(self, size: int, chance: random.Random) -> None:
        self.kept: list[str] = []
        self.seen = 0
        self._size = size
        self._chance = chance
        self._weight = 1.0
        self._next = 0

    def add(self, items: list[str]) -> None:
        free = self._size - len(self.kept)
        self.kept += items[:free]
        if free > 0 and len(self.kept) == self._size:
            self._next = self._size - 1
            self._skip()
        while self._next < self.seen + len(items) and len(self.kept) == self._size:
            self.kept[self._chance.randrange(self._size)] = items[self._next - self.seen]
            self._skip()
        self.seen += len(items)

    def _skip(self) -> None:
        """How many to pass over until the next that is taken."""
        self._weight *= math.exp(math.log(1 - self._chance.random()) / self._size)
        self._next += math.floor(math.log(1 - self._chance.random()) / math.log1p(-self._weight)) + 1


def _commonest(files: list[CorpusFile], tally: Tally, room: int) -> tuple[frozenset[str], float, int]:
    """The commonest ``room`` characters, the share of the text that they make up, and how many different ones there are."""
    counts: Counter[str] = Counter()
    for text in texts(files, deepcopy(tally)):
        counts.update(text)
    for mark in ("\n", *UNUSABLE):
        del counts[mark]
    commonest = counts.most_common(room)
    share = sum(count for _, count in commonest) / max(1, counts.total())
    return frozenset(character for character, _ in commonest), share, len(counts)
