"""A vocabulary trained on text and merged into a Llama tokenizer: ``python -m workloads.tokenizer FILE``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.tokenizer import TokenizerJob
from workloads.data import corpus
from workloads.data.bad_rows import BadRows
from workloads.errors import SpecError
from workloads.runtime import command
from workloads.vocabulary import checks, extend
from workloads.vocabulary.checks import Encoder
from workloads.vocabulary.report import EXAMPLES, Report, write
from workloads.vocabulary.train import Settings, Trained, train

if TYPE_CHECKING:
    from workloads.runtime.runtime import Metrics, Runtime


LOG_LINES = 20
"""Lines about the training in the log."""


def run(job: TokenizerJob, runtime: Runtime) -> Metrics:
    """Train, merge, check, report. Everything that can be refused is read before the training."""
    spec = job.spec
    _names_must_differ(job)
    base = extend.load_base(runtime.inputs["base"].path)
    extend.must_have_room(base, spec.merge.max_size)
    compared = [
        checks.encoder(other.name, runtime.inputs[f"compareWith[{index}]"].path, f"spec.compareWith[{index}].uri")
        for index, other in enumerate(spec.compare_with)
    ]
    tally = corpus.Tally(bad=BadRows.of(spec.dataset))
    files = corpus.files_of(
        [(source, runtime.inputs[f"dataset.train[{index}]"].path) for index, source in enumerate(spec.dataset.train)],
        tally,
    )
    trained = _train(job, files, tally, runtime)
    for line in trained.tally.lines() + trained.notes:
        runtime.progress.log(line)

    # sentencepiece tells no more of its last pieces, and an ended job should not stand at 98 %.
    runtime.progress.update(stage="Merging", step=spec.train.vocab_size, total_steps=spec.train.vocab_size)
    merged = extend.merge(base, extend.parse(trained.model), spec.merge.max_size)
    runtime.stop.check()
    metrics: Metrics = {}
    with runtime.output("Tokenizer", metrics) as folder:
        extend.save(merged, base, folder)
        report = _report(job, runtime.inputs["base"].uri, base, trained, merged, compared, folder)
        metrics.update(report.metrics())
        write(report, folder)
    for line in report.lines():
        runtime.progress.log(line)
    return metrics


def _names_must_differ(job: TokenizerJob) -> None:
    taken = {"base", "ours"}
    for index, other in enumerate(job.spec.compare_with):
        if other.name in taken:
            raise SpecError(
                f"compareWith[{index}].name: {other.name} is taken: give each tokenizer a name of its own, and neither base nor ours"
            )
        taken.add(other.name)


def _train(job: TokenizerJob, files: list[corpus.CorpusFile], tally: corpus.Tally, runtime: Runtime) -> Trained:
    wanted = job.spec.train
    settings = Settings(wanted.vocab_size, wanted.character_coverage, wanted.input_sentence_size)
    runtime.progress.update(stage="Preparing")

    logged = 0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal logged
        if what == "read":
            runtime.progress.heartbeat()
            return
        before, logged = logged, done * LOG_LINES // total
        runtime.progress.update(stage="Training", step=done, total_steps=total, log=logged > before)

    # sentencepiece has no checkpoints: a run that is stopped starts again from the text.
    with runtime.stop.interruptible():
        return train(files, settings, tally, tell)


def _report(
    job: TokenizerJob,
    base_uri: str,
    base: extend.Base,
    trained: Trained,
    merged: extend.Merged,
    compared: list[Encoder],
    folder: Path,
) -> Report:
    """Measures the published files."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    before = SentencePieceProcessor(model_proto=base.proto.SerializeToString())
    pieces = SentencePieceProcessor(model_file=str(folder / extend.TOKENIZER_MODEL))
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    old = Encoder("base", before.encode)
    ours = Encoder("ours", pieces.encode)
    hugging_face = Encoder("tokenizers", lambda text: fast.encode(text, add_special_tokens=False).ids)
    latin = checks.latin_lines(base.proto)
    lines = trained.held_out
    return Report(
        job=job,
        base_uri=base_uri,
        base_pieces=len(base.proto.pieces),
        trained=trained,
        merged=merged,
        characters_per_token={
            tokenizer.name: checks.characters_per_token(tokenizer, lines) for tokenizer in (old, ours, *compared)
        },
        agreement=checks.agreement(ours, hugging_face, [*lines, *merged.added, *latin]),
        latin=checks.agreement(old, ours, latin),
        round_trips={
            "sentencepiece": checks.round_trip(pieces.encode, pieces.decode),
            "tokenizers": checks.round_trip(
                hugging_face.encode, lambda ids: fast.decode(ids, skip_special_tokens=False)
            ),
        },
        base_round_trip=checks.round_trip(before.encode, before.decode),
        examples=[
            (line, before.encode(line, out_type=str), pieces.encode(line, out_type=str)) for line in lines[:EXAMPLES]
        ],
    )


if __name__ == "__main__":
    sys.exit(command.main(TokenizerJob, run))
