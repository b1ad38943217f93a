"""What a reconcile reads is one consistent look, in a known order."""

from __future__ import annotations

from alpaca_operator import observe
from alpaca_operator.api.contract import Progress
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.exits import Waiting
from alpaca_operator.inputs import MissingInput
from alpaca_operator.outcomes.observed import Observed, PageApart, Pusher, QueueWords, Sample, Scout
from tests.operator import build
from tests.operator.pods import START, job, pod
from tests.plan.build import sft_job

NEW, OLD, CHILD, OF_SET = pod("b", made=20), pod("a", made=10), job(), job(uid="uid-of-job")
SERVICE, SAMPLE = build.child("Service", "poet-chat"), Sample(requests=3)
PROGRESS = Progress(step=3)
SCOUT = Scout(job(uid="uid-scout"))
PUSHER = Pusher(job(uid="uid-pusher"))
PAGE = PageApart(job(uid="uid-page"))
WORDS = QueueWords(place=3)
REFUSAL = Waiting(Reason.QUOTA_EXCEEDED, "full")


class World:
    def now(self):
        return START

    def child(self, resource):
        return CHILD

    def jobs(self, child):
        return [OF_SET]

    def family(self, child):
        return frozenset({"uid-of-job"})

    def pods(self, resource):
        return [NEW, OLD]

    def scout(self, resource):
        return SCOUT

    def pusher(self, resource):
        return PUSHER

    def page(self, resource):
        return PAGE

    def progress(self, resource):
        return PROGRESS, START

    def answers_foul(self, resource):
        return True

    def other_children(self, resource):
        return [SERVICE]

    def traffic(self, resource):
        return [(SAMPLE, START)]

    def refusal(self, resource):
        return REFUSAL

    def queue_words(self, resource):
        return WORDS

    def named(self, reference, resource):
        return None


def test_everything_is_seen_pods_oldest_first():
    assert observe.gather(sft_job(), World()) == Observed(
        now=START,
        child=CHILD,
        jobs=(OF_SET,),
        family=frozenset({"uid-of-job"}),
        pods=(Pod(OLD), Pod(NEW)),
        scout=SCOUT,
        pusher=PUSHER,
        page=PAGE,
        progress=PROGRESS,
        progress_at=START,
        answers_foul=True,
        refusal=REFUSAL,
        queue=WORDS,
        other_children=(SERVICE,),
        traffic=((SAMPLE, START),),
    )


def test_what_other_jobs_have_not_made_is_seen_too():
    found = observe.gather(sft_job(model={"from": {"kind": "PretrainJob", "name": "base"}}), World())
    message = "model.from names PretrainJob base, which does not exist in namespace poetry: create it"
    assert (found.inputs, found.missing) == ({}, MissingInput(Reason.NOT_FOUND, message))


def test_a_world_in_which_nothing_happened_yet():
    class Fresh(World):
        def child(self, resource):
            return None

        def pods(self, resource):
            return []

        def scout(self, resource):
            return None

        def pusher(self, resource):
            return None

        def page(self, resource):
            return None

        def progress(self, resource):
            return None

        def answers_foul(self, resource):
            return False

        def other_children(self, resource):
            return []

        def traffic(self, resource):
            return []

        def refusal(self, resource):
            return None

        def queue_words(self, resource):
            return None

    assert observe.gather(sft_job(), Fresh()) == Observed(now=START)
