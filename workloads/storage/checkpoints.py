"""What runs of a job leave beside its output until it is published: the name of the newest run, and checkpoints.

Beside the output ``X`` lies ``X.checkpoints/``::

    run-id                            the newest run; older ones may write and remove nothing any more
    run-<id>/checkpoint-<step>/       complete: written elsewhere, flushed, renamed
        checkpoint.json               its step, what it was made from, and the digest of every file
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from alpaca_operator.api import contract
from workloads.errors import Superseded
from workloads.storage import hashing
from workloads.storage.hashing import HashCache
from workloads.storage.listing import listing
from workloads.system import atomic
from workloads.system.clock import now

MARKER = "checkpoint.json"
FENCE = "run-id"


class Run(contract.Wire):
    """The content of the file ``run-id``."""

    run_id: str
    job: str = ""
    spec_digest: str = ""
    """What the result is made from."""
    training_digest: str = ""
    """The part of that which shapes the checkpoints."""
    processes: int = 0
    """That were asked for; 0 in a run of a version that did not say."""
    started_at: str = ""
    jobset: str = ""
    """UID of the JobSet whose pods it is; empty where they are nobody's set."""
    attempt: int = 0
    """How often that had been started again."""
    overtaken: tuple[str, ...] = ()
    """Ids of the runs before it, each of which took over from the one before."""


class Record(contract.Wire):
    """The content of ``checkpoint.json``."""

    step: int
    run_id: str
    spec_digest: str
    """What shaped the training so far; a job in which that is different must not go on from here."""
    training_digest: str = ""
    """The part of that which follows from spec and inputs, without the rows that were set aside."""
    processes: int = 0
    """That were asked for, as in Run."""
    files: list[contract.ArtifactFile]
    created_at: str = ""


class Fence(ABC):
    """Tells whether this run is still the newest of its job."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def must_be_newer(self) -> None:
        """Changes nothing. Raises Superseded where this run is known to be of before the newest."""
        _taking_over(self._run, self._newest())

    def acquire(self) -> None:
        """Become the newest run. Raises Superseded as `must_be_newer` does."""
        self._write(_taking_over(self._run, self._newest()).to_json() + "\n")

    def check(self) -> None:
        """Raises Superseded when another run took over."""
        newest = self._newest()
        if newest is None:
            raise Superseded(
                "the output was published, or its checkpoints removed, by another run: this one ends without publishing"
            )
        if newest.run_id != self._run.run_id:
            raise Superseded(f"{_took_over(newest)}: this one ends without publishing")

    def shapes_other_checkpoints(self) -> bool:
        """Whether the newest run is not of what this one would train: it makes something else in this place."""
        newest = self._newest()
        return newest is not None and newest.training_digest not in ("", self._run.training_digest)

    @abstractmethod
    def release(self) -> None:
        """After publishing: no run is the newest any more, so one that was lost and comes back does nothing either."""

    @abstractmethod
    def _newest(self) -> Run | None:
        """The run that it names."""

    @abstractmethod
    def _write(self, text: str) -> None: ...


class FileFence(Fence):
    """A fence in a file, on the volume that the output lies on."""

    def __init__(self, path: Path, run: Run) -> None:
        super().__init__(run)
        self._path = path

    @staticmethod
    def read(path: Path) -> Run | None:
        """The run that a fence's file names."""
        try:
            return named_run(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def release(self) -> None:
        self._path.unlink(missing_ok=True)

    def _newest(self) -> Run | None:
        return self.read(self._path)

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self._path, text)


def named_run(text: str) -> Run | None:
    """The run that ``text``, the content of ``run-id``, names."""
    try:
        return Run.model_validate_json(text) if text else None
    except ValidationError:
        return None


def _taking_over(run: Run, newest: Run | None) -> Run:
    """``run``, as the fence names it once it has taken over from ``newest``. Raises Superseded where that is the younger of the two.

    A pod of a machine that was given up may start late, or again. Attempts of one JobSet are numbered; of other pods nothing says which is
    older, and whoever takes over keeps the names of those before.
    """
    if newest is None:
        return run
    if newest.run_id == run.run_id:
        return run.model_copy(update={"overtaken": newest.overtaken})
    if run.run_id in newest.overtaken:
        raise Superseded(
            f"{_took_over(newest)}: run {run.run_id} is of before it, and ends without writing anything (outside a cluster every start "
            f"needs an {contract.ENV_RUN_ID} of its own)"
        )
    if newest.jobset and newest.jobset == run.jobset and newest.attempt > run.attempt:
        raise Superseded(
            f"{_took_over(newest)}, in attempt {newest.attempt} of the JobSet: a pod of attempt {run.attempt} ends without writing anything"
        )
    return run.model_copy(update={"overtaken": (*newest.overtaken, newest.run_id)})


def _took_over(newest: Run) -> str:
    return f"another run took over at {newest.started_at} (run {newest.run_id} of {newest.job})"


class Output(Protocol):
    """The output that a job's checkpoints lie beside."""

    uri: str
    checkpoints: Path
    """Their folder on this machine, whether or not the output is on it."""


class Checkpoints:
    """The checkpoints of one job, over all its runs."""

    def __init__(
        self,
        output: Output,
        run: Run,
        hashes: HashCache,
        log: Callable[[str], None],
        on_complete: Callable[[contract.Checkpoint], None],
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        """``verify`` raises where the inputs turn out not to be what the run took them for: no checkpoint is complete before.
        ``on_complete`` hears of each checkpoint that is written, and of the one that a run goes on from."""
        self._folder = output.checkpoints
        self._uri = f"{output.uri}.checkpoints"
        self._run = run
        self._made_from = run.training_digest
        # A version before this one wrote the digest of the whole spec.
        self._ours = {run.training_digest, run.spec_digest}
        self._fence = FileFence(self._folder / FENCE, run)
        self._hashes = hashes
        self._log = log
        self._on_complete = on_complete
        self._verify = verify

    @property
    def own(self) -> Path:
        """The folder of this run."""
        return self._folder / f"run-{self._run.run_id}"

    def trained_on(self, rows: str) -> None:
        """From here on only checkpoints count that were trained on the same rows of the data: ``rows`` is their digest, empty for all.

        Spec and inputs do not tell: a version that sets others aside for validation would go on with a model that has read them.
        """
        if rows:
            self._made_from = hashing.of_json({"spec": self._run.training_digest, "rows": rows})
            self._ours = {self._made_from}

    def partial(self, step: int) -> Path:
        """Where a checkpoint is written, before it is one."""
        return self.own / f".checkpoint-{step}.partial"

    def acquire(self) -> None:
        """Become the newest run of the job: older ones may write and remove nothing any more."""
        self._fence.acquire()

    def check(self) -> None:
        """Raises Superseded when another run took over."""
        self._fence.check()

    def newest(self) -> Path | None:
        """The complete checkpoint with the highest step that a run with the same settings and inputs wrote.

        Every file's digest is verified. What is passed over is said: damaged checkpoints, and those of other settings.
        """
        foreign: list[Record] = []
        for folder, record in self._complete():
            if not self._is_ours(record):
                foreign.append(record)
                continue
            damage = self._damage(folder, record)
            if damage:
                self._log(f"checkpoint {_label(folder)} is damaged ({damage}): going back to the one before")
                continue
            self._on_complete(self._reported(folder, record.step))
            return folder
        if foreign:
            size = sum(file.size for record in foreign for file in record.files)
            self._log(
                f"{len(foreign)} checkpoint(s) in {self._folder} were made with other settings or inputs: starting from the beginning "
                f"(they take {size / 2**20:,.1f} MiB, and are removed when the output is published)"
            )
        return None

    @contextmanager
    def write(self, step: int) -> Iterator[Path]:
        """A folder to save into. It becomes ``checkpoint-<step>`` when the block ends well, and disappears when it does not.

        Raises Superseded when another run took over.
        """
        self._fence.check()
        target = self.own / f"checkpoint-{step}"
        partial = self.partial(step)
        atomic.discard(partial)
        partial.mkdir(parents=True)
        try:
            with atomic.failures_named(partial):
                yield partial
                self._complete_with_record(partial, step)
            self._verify()
            self._fence.check()
            atomic.replace_dir(partial, target, self._run.run_id)
        except BaseException:
            atomic.discard(partial)
            raise
        self._on_complete(self._reported(target, step))

    @contextmanager
    def write_part(self, step: int) -> Iterator[Path]:
        """For the processes beside the one that is in `write`: the same folder, to save their own part into."""
        folder = self.partial(step)
        with atomic.failures_named(folder):
            yield folder

    def _complete_with_record(self, folder: Path, step: int) -> None:
        """Write the digest of every file beside it, and flush all."""
        names = listing(folder)
        digests = self._hashes.computed(folder, names)
        files = [
            contract.ArtifactFile(path=name, size=(folder / name).stat().st_size, sha256=digests[name])
            for name in names
        ]
        record = Record(
            step=step,
            run_id=self._run.run_id,
            spec_digest=self._made_from,
            training_digest=self._run.training_digest,
            processes=self._run.processes,
            files=files,
            created_at=now(),
        )
        (folder / MARKER).write_text(record.to_json() + "\n", encoding="utf-8")
        atomic.sync_tree(folder, self._hashes.heartbeat)

    def prune(self, keep: int, protect: Collection[Path] = ()) -> None:
        """Remove all but the newest ``keep`` checkpoints of this job, over all its runs, and those in ``protect``."""
        self._fence.check()
        ours = [folder for folder, record in self._complete() if self._is_ours(record)]
        for folder in ours[keep:]:
            if folder not in protect:
                atomic.discard(folder)

    def kept_bytes(self) -> int:
        """Of the complete checkpoints that this job may go on from."""
        return sum(file.size for _, record in self._complete() if self._is_ours(record) for file in record.files)

    def discard_all(self) -> None:
        """Remove every checkpoint: the output is published, nothing will go on from them."""
        self._fence.release()
        atomic.discard(self._folder)

    def tidy(self) -> None:
        """Remove what interrupted writes of earlier runs left behind."""
        for run in runs(self._folder):
            for leftover in [*run.glob(".*.partial"), *run.glob(".*.discarded"), *run.glob(".*.replaced")]:
                atomic.discard(leftover)

    def _is_ours(self, record: Record) -> bool:
        """By what shaped the training."""
        return record.spec_digest in self._ours

    def _complete(self) -> list[tuple[Path, Record]]:
        """Complete checkpoints, the highest step first, among equals the one written last."""
        return _complete(
            self._folder,
            lambda folder: self._log(f"checkpoint {_label(folder)} has no readable {MARKER}: it is passed over"),
        )

    def _damage(self, folder: Path, record: Record) -> str | None:
        for file in record.files:
            path = folder / file.path
            if not path.is_file():
                return f"{file.path} is missing"
            size = path.stat().st_size
            if size != file.size:
                return f"{file.path} has {size} bytes instead of {file.size}"
        found = self._hashes.computed(folder, [file.path for file in record.files])
        return next(
            (f"the content of {file.path} has changed" for file in record.files if found[file.path] != file.sha256),
            None,
        )

    def _reported(self, folder: Path, step: int) -> contract.Checkpoint:
        return contract.Checkpoint(uri=f"{self._uri}/{_label(folder)}", step=step)


def records(folder: Path) -> list[Record]:
    """Of the complete checkpoints of all runs in ``folder``, the highest step first; those that cannot be read are for the run to tell of."""
    return [record for _, record in _complete(folder, lambda _: None)]


def runs(folder: Path) -> list[Path]:
    """The folder of each run."""
    return sorted(path for path in folder.glob("run-*") if path.is_dir())


def _complete(folder: Path, unreadable: Callable[[Path], None]) -> list[tuple[Path, Record]]:
    found = []
    for checkpoint in (path for run in runs(folder) for path in run.glob("checkpoint-*")):
        try:
            record = Record.model_validate_json((checkpoint / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            unreadable(checkpoint)
            continue
        found.append((checkpoint, record))
    return sorted(found, key=lambda entry: (entry[1].step, entry[1].created_at), reverse=True)


def _label(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
