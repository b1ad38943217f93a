"""A vocabulary trained on text and merged into a Llama tokenizer: ``python -m workloads.tokenizer FILE``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.tokenizer import TokenizerJob
from workloads import cli, corpus, vocabulary, vocabulary_checks, vocabulary_report, vocabulary_training
from workloads.errors import SpecError
from workloads.vocabulary_checks import Encoder
from workloads.vocabulary_report import Report

if TYPE_CHECKING:
    from workloads.runtime import Metrics, Runtime


LOG_LINES = 20
"""Lines about the training in the log."""


def run(job: TokenizerJob, here: Runtime) -> Metrics:
    """Train, merge, check, report. Everything that can be refused is read before the training."""
    spec = job.spec
    _names_must_differ(job)
    base = vocabulary.load_base(here.inputs["base"].path)
    vocabulary.must_have_room(base, spec.merge.max_size)
    compared = [
        vocabulary_checks.encoder(
            other.name, here.inputs[f"compareWith[{index}]"].path, f"spec.compareWith[{index}].uri"
        )
        for index, other in enumerate(spec.compare_with)
    ]
    tally = corpus.Tally()
    files = corpus.files_of(
        [(source, here.inputs[f"dataset.train[{index}]"].path) for index, source in enumerate(spec.dataset.train)],
        tally,
    )
    trained = _train(job, files, here)
    trained.tally.problems.update(tally.problems)
    trained.tally.examples.update(tally.examples)
    for line in trained.tally.lines() + trained.notes:
        here.progress.say(line)

    # sentencepiece tells no more of its last pieces, and an ended job should not stand at 98 %.
    here.progress.update(stage="Merging", step=spec.train.vocab_size, total_steps=spec.train.vocab_size)
    merged = vocabulary.merge(base, vocabulary.parse(trained.model), spec.merge.max_size)
    here.stop.check()
    metrics: Metrics = {}
    with here.output("Tokenizer", metrics) as folder:
        vocabulary.save(merged, base, folder)
        report = _report(job, here.inputs["base"].uri, base, trained, merged, compared, folder)
        metrics.update(report.metrics())
        vocabulary_report.write(report, folder)
    for line in report.lines():
        here.progress.say(line)
    return metrics


def _names_must_differ(job: TokenizerJob) -> None:
    taken = {"base", "ours"}
    for index, other in enumerate(job.spec.compare_with):
        if other.name in taken:
            raise SpecError(
                f"compareWith[{index}].name: {other.name} is taken: give each tokenizer a name of its own, and neither base nor ours"
            )
        taken.add(other.name)


def _train(job: TokenizerJob, files: list[corpus.CorpusFile], here: Runtime) -> vocabulary_training.Trained:
    train = job.spec.train
    settings = vocabulary_training.Settings(train.vocab_size, train.character_coverage, train.input_sentence_size)
    here.progress.update(stage="Preparing")

    logged = 0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal logged
        if what == "read":
            here.progress.beat()
            return
        before, logged = logged, done * LOG_LINES // total
        here.progress.update(stage="Training", step=done, total_steps=total, log=logged > before)

    # sentencepiece has no checkpoints: a run that is stopped starts again from the text.
    with here.stop.at_once():
        return vocabulary_training.train(files, settings, tell)


def _report(
    job: TokenizerJob,
    base_uri: str,
    base: vocabulary.Base,
    trained: vocabulary_training.Trained,
    merged: vocabulary.Merged,
    compared: list[Encoder],
    folder: Path,
) -> Report:
    """Measures the published files."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    before = SentencePieceProcessor(model_proto=base.proto.SerializeToString())
    pieces = SentencePieceProcessor(model_file=str(folder / vocabulary.TOKENIZER_MODEL))
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    old = Encoder("base", before.encode)
    ours = Encoder("ours", pieces.encode)
    hugging_face = Encoder("tokenizers", lambda text: fast.encode(text, add_special_tokens=False).ids)
    latin = vocabulary_checks.latin_lines(base.proto)
    lines = trained.held_out
    return Report(
        job=job,
        base_uri=base_uri,
        base_pieces=len(base.proto.pieces),
        trained=trained,
        merged=merged,
        characters_per_token={
            tokenizer.name: vocabulary_checks.characters_per_token(tokenizer, lines)
            for tokenizer in (old, ours, *compared)
        },
        agreement=vocabulary_checks.agreement(ours, hugging_face, [*lines, *merged.added, *latin]),
        latin=vocabulary_checks.agreement(old, ours, latin),
        round_trips={
            "sentencepiece": vocabulary_checks.round_trip(pieces.encode, pieces.decode),
            "tokenizers": vocabulary_checks.round_trip(
                hugging_face.encode, lambda ids: fast.decode(ids, skip_special_tokens=False)
            ),
        },
        base_round_trip=vocabulary_checks.round_trip(before.encode, before.decode),
        examples=[
            (line, before.encode(line, out_type=str), pieces.encode(line, out_type=str))
            for line in lines[: vocabulary_report.EXAMPLES]
        ],
    )


if __name__ == "__main__":
    sys.exit(cli.main(TokenizerJob, run))
