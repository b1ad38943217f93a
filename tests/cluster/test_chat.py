"""A chain that ends in a chat, on a real node: asked through its Service by OpenAI's client, while models change and pods die."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from safetensors.torch import load_file, save_file

from alpaca_operator.chats.traffic import parse
from tests.cluster.bed import debian, images
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.node import Bed
from tests.cluster.team import Team, over, ready, rows_of, sft_job
from tests.workloads.models.test_merge_lora import adapter_of

pytestmark = pytest.mark.cluster

USERS = 20
PAUSE_SECONDS = 3.0
"""Between two questions of a user."""
LOAD_SECONDS = float(os.environ.get("ALPACA_CHAT_LOAD_SECONDS", "0"))
"""How long the load lasts at least; 300 for a long look. It always lasts through an update and a pod's death."""
TOKENS = 8
KEY = "sk-a-key-of-the-test"
ENDPOINTS = ("床前明月光，下一句是什么？", "写一句关于秋天的诗。", "Who are you?", "春眠不觉晓", "🌕 is what?")


def chat(name: str, **spec: Any) -> Manifest:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "ChatDeployment",
        "metadata": {"name": name},
        "spec": over(
            {
                "model": {"from": {"kind": "SFTJob", "name": "tuned"}},
                "template": "HumanAssistant",
                "auth": {"secretName": "keys"},
                "pod": {
                    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                    "resources": {"requests": {"cpu": "100m"}},
                    "terminationGracePeriodSeconds": 60,
                },
            },
            spec,
        ),
    }


def tuned(learning_rate: float, output: str) -> Manifest:
    """A model that answers otherwise with another learning rate."""
    training = {"learningRate": learning_rate}
    return sft_job("tuned", merge=True, training=training, output={"uri": f"pvc://models/{output}"})


def found(team: Team) -> Manifest:
    return team.bed.get("chatdeployment", "poet", "-n", team.namespace)


def serves(team: Team, digest: str, replicas: int, seconds: float = 600) -> Manifest:
    """Waits until every pod serves this model."""

    def there() -> bool:
        status = found(team)["status"]
        told = (ready(found(team)).get("reason"), status.get("model", {}).get("digest"), status.get("replicasDisplay"))
        return told == ("Serving", digest, f"{replicas}/{replicas}")

    try:
        until(there, f"poet to serve {digest} on {replicas} pods", seconds, every=0.5)
    except Exception as error:
        pods = team.kubectl("get", "pods", "-o", "wide")
        raise AssertionError(f"{error}\n{json.dumps(found(team)['status'], indent=1)}\n{pods}") from error
    return found(team)


def digest_of(team: Team, output: str) -> str:
    return str(json.loads((team.models / output / "artifact.json").read_text(encoding="utf-8"))["digest"])


@dataclass
class Tally:
    """What became of the questions."""

    answers: list[tuple[str, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Connections that were refused or cut, by the error that the client raised for each."""
    silent: int = 0
    """Streams that ended without their last word, and no error."""


def client(address: str, key: str = KEY) -> openai.AsyncOpenAI:
    """A connection for each question: one that is kept would stay with its pod."""
    connections = openai.DefaultAsyncHttpxClient(limits=httpx.Limits(max_keepalive_connections=0))
    url = f"http://{address}:8000/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=120, http_client=connections)


async def ask(api: openai.AsyncOpenAI, question: str, *, stream: bool = False, model: str = "poet") -> str | None:
    """The whole answer; None for a stream that just ends. Raises openai's errors."""
    wanted: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    if not stream:
        answer = await api.chat.completions.create(**wanted)
        assert answer.choices[0].finish_reason in ("stop", "length")
        return answer.choices[0].message.content or ""
    text, ended = "", False
    async for piece in await api.chat.completions.create(**wanted, stream=True):
        for choice in piece.choices:
            text += choice.delta.content or ""
            ended = ended or choice.finish_reason is not None
    return text if ended else None


async def a_user(number: int, address: str, tally: Tally) -> None:
    """Asks until cancelled, every other one by streams."""
    await asyncio.sleep(number * PAUSE_SECONDS / USERS)
    async with client(address) as api:
        for turn in itertools.count(number):
            question = ENDPOINTS[turn % len(ENDPOINTS)]
            try:
                said = await ask(api, question, stream=number % 2 == 0)
                if said is None:
                    tally.silent += 1
                else:
                    tally.answers.append((question, said))
            except openai.APIStatusError as error:
                tally.refused[f"{error.status_code} {error.code}"] += 1
            except openai.APIError as error:
                tally.broken[type(error).__name__] += 1
            await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def load(address: str) -> AsyncIterator[Tally]:
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        users = [group.create_task(a_user(number, address, tally)) for number in range(USERS)]
        yield tally
        for user in users:
            user.cancel()


def lives(pod: Manifest) -> bool:
    return "deletionTimestamp" not in pod["metadata"]


def asked(pod: Manifest) -> int:
    """How many questions it has had: a client's stay with one pod."""
    return parse(httpx.get(f"http://{pod['status']['podIP']}:8000/metrics", timeout=30).content).requests


def kill(team: Team, pod: Manifest) -> None:
    """Dead at once, as with its node; nobody knows before it is noticed."""
    uid = pod["metadata"]["uid"]
    script = 'for p in /proc/[0-9]*; do grep -qs "$1" "$p/cgroup" && grep -qs workloads.engine "$p/cmdline" && kill -9 "${p#/proc/}"; done; true'
    team.bed.node_exec("sh", "-c", script, "kill", uid.replace("-", "[-_]"))
    team.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")


@pytest.fixture
def salon(mine: Team) -> Team:
    mine.add_rows("rows.json", 20)
    mine.kubectl(
        "create",
        "secret",
        "generic",
        "keys",
        f"--from-literal=apiKey={KEY}",
        "--from-literal=username=li",
        "--from-literal=password=bai",
    )
    return mine


@pytest.mark.timeout(2400)
async def test_a_chain_ends_in_a_chat_that_answers_while_its_model_changes_and_a_pod_dies(salon: Team) -> None:
    salon.apply(chat("poet"))
    until(lambda: ready(found(salon)).get("reason") == "NotFound", "the chat to wait for its model")
    salon.apply(tuned(0.01, "first"))
    salon.wait(tuned(0.01, "first"), "Succeeded")
    first = digest_of(salon, "first")
    began = time.monotonic()
    now = serves(salon, first, 1)
    print(f"ready {time.monotonic() - began:.0f} s after its model was there")

    # What kubectl shows, and where it is reached.
    row = rows_of(salon.kubectl("get", "chat"))[0]
    assert row["STATE"] == "Serving"
    assert row["MODEL"] == f"pvc://models/first@{first[:19]}"
    assert (row["URL"], row["REPLICAS"]) == (f"http://poet-chat.{salon.namespace}.svc:7860", "1/1")
    assert now["status"]["resolvedInputs"]["model"]["digest"] == first
    address = str(salon.bed.get("service", "poet-chat", "-n", salon.namespace)["spec"]["clusterIP"])
    async with httpx.AsyncClient(timeout=30, follow_redirects=True) as browser:  # to the login
        assert (await browser.get(f"http://{address}:7860/")).status_code == 200

    # OpenAI's client, with the key and without.
    async with client(address) as api:
        assert [model.id async for model in api.models.list()] == ["poet"]
        before = {question: await ask(api, question) for question in ENDPOINTS}
        assert {question: await ask(api, question, stream=True) for question in ENDPOINTS} == before
    async with client(address, "sk-another") as api:
        with pytest.raises(openai.AuthenticationError):
            await ask(api, "Who are you?")

    # kubectl scale.
    salon.kubectl("scale", "chat", "poet", "--replicas=2")
    await asyncio.to_thread(serves, salon, first, 2)

    started = time.monotonic()
    async with load(address) as tally:
        # The model is made anew: it takes over when it is ready.
        salon.kubectl("delete", "sftjob", "tuned")
        salon.apply(tuned(0.05, "second"))
        await asyncio.to_thread(salon.wait, tuned(0.05, "second"), "Succeeded")
        second = digest_of(salon, "second")
        assert second != first
        await asyncio.to_thread(serves, salon, second, 2)
        # A pod that was told to stop answers until the Service knows.
        left = partial(until, lambda: all(map(lives, salon.pods("poet"))), "the old pods to be gone", 120)
        await asyncio.to_thread(left)
        async with client(address) as api:
            after = {question: await ask(api, question) for question in ENDPOINTS}
        assert after != before, "the two models answer alike: nothing would be seen of a mistake"
        quiet = Counter(tally.broken)

        # A pod dies with its node.
        await asyncio.to_thread(kill, salon, max(salon.pods("poet"), key=asked))
        missed = partial(until, lambda: found(salon)["status"]["readyReplicas"] == 1, "the pod to be missed", 60)
        await asyncio.to_thread(missed)
        now = await asyncio.to_thread(serves, salon, second, 2)
        await asyncio.sleep(max(started + LOAD_SECONDS - time.monotonic(), 2 * PAUSE_SECONDS))
        answered = len(tally.answers)

    seconds = time.monotonic() - started
    print(f"{answered} answers in {seconds:.0f} s, refused {dict(tally.refused)}, broken {dict(tally.broken)}")
    assert answered > USERS
    wrong = [(question, said) for question, said in tally.answers if said not in (before[question], after[question])]
    assert wrong == []
    assert tally.silent == 0, "a stream that was cut says so"
    assert set(tally.refused) <= {"503 model_loading", "503 draining", "429 queue_full"}
    assert sum(quiet.values()) == 0, "an update breaks no connection"
    assert set(tally.broken) <= {"APIConnectionError", "APIError"}
    assert now["status"]["traffic"]["requests"] > 0
    reasons = [reason for reason, _ in salon.events("poet", "ChatDeployment")]
    assert set(reasons) <= {"Serving"}, "all of this is the usual way"


def models_of(address: str) -> list[str]:
    listed = httpx.get(f"http://{address}:8000/v1/models", headers={"authorization": f"Bearer {KEY}"}, timeout=30)
    return [each["id"] for each in listed.json()["data"]]


def said_of_adapters(team: Team) -> tuple[str, str]:
    """Reason and message of the condition."""
    conditions = found(team)["status"]["conditions"]
    told = next((one for one in conditions if one["type"] == "AdaptersLoaded"), {})
    return told.get("reason", ""), told.get("message", "")


@pytest.mark.drill
@pytest.mark.timeout(1800)
async def test_adapters_come_and_go_in_the_pod_that_serves(salon: Team) -> None:
    poem = sft_job("poem", training={"learningRate": 0.05})
    poem["metadata"]["labels"] = {"team": "poetry"}
    salon.apply(poem)
    salon.wait(poem, "Succeeded")
    serving = chat("poet", model={"uri": "pvc://models/tiny", "from": None})
    salon.apply(serving)
    salon.wait(serving, "Serving")
    (pod,) = salon.pods("poet")
    name, planned = pod["metadata"]["name"], salon.bed.get("deployment", "poet-chat", "-n", salon.namespace)
    address = str(salon.bed.get("service", "poet-chat", "-n", salon.namespace)["spec"]["clusterIP"])
    assert models_of(address) == ["poet"]

    def patch(**spec: Any) -> None:
        salon.kubectl("patch", "chat", "poet", "--type=merge", "-p", json.dumps({"spec": spec}))

    def has(*names: str) -> None:
        until(lambda: models_of(address) == ["poet", *names], f"the pod to serve {names}", 180, every=0.5)

    async with load(address) as tally:
        # By its name.
        patch(adapters=[{"name": "ode", "uri": "pvc://models/poem"}, {"name": "gone", "uri": "pvc://models/nowhere"}])
        began = time.monotonic()
        await asyncio.to_thread(has, "ode")
        print(f"served {time.monotonic() - began:.1f} s after it was named")
        told = partial(until, lambda: said_of_adapters(salon)[0] == "AdapterRefused", "one to be refused", 120)
        await asyncio.to_thread(told)
        assert said_of_adapters(salon)[1].startswith("gone: spec.adapters[gone].uri: pvc://models/nowhere")
        assert ready(found(salon))["reason"] == "Serving"
        assert "adapter gone is not served" in ready(found(salon))["message"]
        patch(adapters=[])
        await asyncio.to_thread(has)

        # By the labels of the job that made it.
        patch(adapterSelector={"matchLabels": {"team": "poetry"}})
        await asyncio.to_thread(has, "poem")
        answers = partial(until, lambda: said_of_adapters(salon) == ("Serving", "poem answers"), "it to be told", 120)
        await asyncio.to_thread(answers)
        taken = found(salon)["status"]["resolvedInputs"]["adapterSelector[poem]"]
        assert (taken["digest"], taken["producer"]) == (digest_of(salon, "poem"), "SFTJob poem")
        async with client(address) as api:
            assert await ask(api, ENDPOINTS[0], model="poem")
        salon.kubectl("delete", "sftjob", "poem")
        await asyncio.to_thread(has)

    (pod,) = salon.pods("poet")
    assert (pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"]) == (name, 0)
    now = salon.bed.get("deployment", "poet-chat", "-n", salon.namespace)
    assert now["spec"]["template"] == planned["spec"]["template"]
    assert len(tally.answers) > 0
    assert (tally.silent, dict(tally.refused), dict(tally.broken)) == (0, {}, {})


def page_of(team: Team) -> tuple[str, str]:
    """Status and reason of the condition of a page in pods of its own."""
    conditions = found(team)["status"].get("conditions", [])
    told = next((one for one in conditions if one["type"] == "PageAvailable"), {})
    return told.get("status", ""), told.get("reason", "")


def ready_endpoints(team: Team, service: str) -> int:
    slices = team.bed.items("endpointslices", "-n", team.namespace, "-l", f"kubernetes.io/service-name={service}")
    endpoints = [each for one in slices for each in one.get("endpoints") or ()]
    return sum(bool(each["conditions"].get("ready")) for each in endpoints)


def asked_by_page(browser: httpx.Client) -> tuple[str, str]:
    """How the answer to a question on the page ended, and by which problem."""
    lines = browser.post("/answers", json={"turns": [{"question": ENDPOINTS[0]}]}).raise_for_status().text.splitlines()
    answer: dict[str, Any] = {}
    for line in lines:
        answer |= json.loads(line)[0]
    return answer["state"], answer.get("problem", "")


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_a_page_apart_is_there_while_the_model_loads_and_when_no_pod_has_it(salon: Team) -> None:
    """Loading is held by the engine's memory of digests, which is a pipe: it waits for whoever writes it."""
    pipe = salon.models / ".literary-alpaca" / "digests.json"
    pipe.parent.mkdir()
    pipe.parent.chmod(0o777)

    def hold() -> None:
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        pipe.chmod(0o666)

    def let_go() -> None:
        """It reads once more before it writes, which puts a file in the pipe's place."""

        def serves_once_it_has_read() -> bool:
            with suppress(OSError):  # nobody reads just now
                writing = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                if stat.S_ISFIFO(os.fstat(writing).st_mode):
                    os.write(writing, b"{}")
                os.close(writing)
            return ready(found(salon)).get("reason") == "Serving"

        until(serves_once_it_has_read, "the engine to answer", 600, every=0.5)

    hold()
    serving = chat(
        "poet",
        model={"uri": "pvc://models/tiny", "from": None},
        page={"replicas": 1},
        cache={"claimName": "models"},
    )
    salon.apply(serving)
    began = time.monotonic()
    until(lambda: page_of(salon) == ("True", "Serving"), "the page to answer", 600, every=0.5)
    print(f"the page answers after {time.monotonic() - began:.0f} s, and {ready(found(salon))['reason']} is the engine")
    assert found(salon)["status"]["url"] == f"http://poet-chat-page.{salon.namespace}.svc:7860"
    addresses = {
        name: str(salon.bed.get("service", name, "-n", salon.namespace)["spec"]["clusterIP"])
        for name in ("poet-chat", "poet-chat-page")
    }
    (page_pod,) = salon.bed.items("pods", "-n", salon.namespace, "-l", "literary-alpaca.io/page=poet")
    with httpx.Client(base_url=f"http://{addresses['poet-chat-page']}:7860", timeout=60) as browser:
        entered = browser.post("/login", data={"username": "li", "password": "bai"})
        assert entered.status_code == 303

        # While the model is being loaded.
        until(lambda: asked_by_page(browser) == ("failed", "loading"), "the page to see that it loads", 300, every=0.5)
        assert browser.get("/").status_code == 200
        assert (ready(found(salon))["status"], ready_endpoints(salon, "poet-chat")) == ("False", 0)
        assert ready_endpoints(salon, "poet-chat-page") == 1
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{addresses['poet-chat']}:8000/health", timeout=10)

        # Once it is.
        let_go()
        until(lambda: asked_by_page(browser)[0] in ("done", "cut"), "a question to be answered", 120, every=0.5)
        assert models_of(addresses["poet-chat"]) == ["poet"]

        # The engine's pod goes, and its successor loads.
        hold()
        (engine_pod,) = salon.pods("poet")
        salon.kubectl("delete", "pod", engine_pod["metadata"]["name"], "--grace-period=1")
        until(
            lambda: asked_by_page(browser) == ("failed", "loading"), "the next one to be seen loading", 300, every=0.5
        )
        assert browser.get("/").status_code == 200
        let_go()
        until(lambda: asked_by_page(browser)[0] in ("done", "cut"), "a question to be answered", 120, every=0.5)

        # Nobody is wanted.
        salon.kubectl("scale", "chat", "poet", "--replicas=0")
        until(lambda: asked_by_page(browser) == ("failed", "away"), "the page to see nobody", 300, every=0.5)
        assert browser.get("/").status_code == 200
    (same,) = salon.bed.items("pods", "-n", salon.namespace, "-l", "literary-alpaca.io/page=poet")
    assert same["metadata"]["uid"] == page_pod["metadata"]["uid"]
    assert same["status"]["containerStatuses"][0]["restartCount"] == 0
    assert page_of(salon) == ("True", "Serving")


class Visitor(threading.Thread):
    """Opens the page again and again, by every Service that has led to it, and counts when none does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.addresses: set[str] = set()
        self.visits = 0
        self.missed: list[float] = []
        self._leaves = threading.Event()

    def run(self) -> None:
        while not self._leaves.wait(0.2):
            self.visits += 1
            if not any(self._is_there(address) for address in sorted(self.addresses)):
                self.missed.append(time.monotonic())

    def leave(self) -> None:
        self._leaves.set()
        self.join(timeout=60)

    @staticmethod
    def _is_there(address: str) -> bool:
        try:
            return httpx.get(f"http://{address}:7860/livez", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_a_page_moves_out_and_in_again_and_somebody_reaches_it_all_the_time(salon: Team) -> None:
    serving = chat("poet", model={"uri": "pvc://models/tiny", "from": None})
    salon.apply(serving)
    salon.wait(serving, "Serving")
    (first,) = salon.pods("poet")

    def service(name: str) -> Manifest:
        return salon.bed.get("service", name, "-n", salon.namespace)

    def ports() -> set[int]:
        return {each["port"] for each in service("poet-chat")["spec"]["ports"]}

    def patch(replicas: int | None) -> None:
        salon.kubectl(
            "patch", "chat", "poet", "--type=merge", "-p", json.dumps({"spec": {"page": {"replicas": replicas}}})
        )

    def holders() -> list[list[str]]:
        return [[each["name"] for each in pod["spec"]["containers"]] for pod in salon.pods("poet") if lives(pod)]

    visitor = Visitor()
    visitor.addresses = {service("poet-chat")["spec"]["clusterIP"]}
    visitor.start()
    try:
        patch(1)
        until(lambda: page_of(salon) == ("True", "Serving"), "the page to answer apart", 600, every=0.5)
        visitor.addresses = visitor.addresses | {service("poet-chat-page")["spec"]["clusterIP"]}
        moved = partial(
            until, lambda: (holders(), ports()) == ([["engine"]], {8000}), "the engine to lose the page", 600
        )
        moved()
        assert ready(salon.wait(serving, "Serving"))["status"] == "True"
        out = visitor.visits

        patch(None)
        back = partial(until, lambda: (holders(), ports()) == ([["engine", "ui"]], {7860, 8000}), "it to be back", 600)
        back()
        gone = ("get", "deployment,service", "poet-chat-page", "--ignore-not-found", "-o", "name")
        until(lambda: salon.kubectl(*gone).strip() == "", "what the page had to be gone", 300)
        now = salon.wait(serving, "Serving")
        seen = visitor.visits
        until(lambda: visitor.visits > seen + 5, "a few visits more", 60)
    finally:
        visitor.leave()
    print(f"{visitor.visits} visits, {out} of them while it moved out, {len(visitor.missed)} in vain")
    assert out > 10
    assert visitor.visits > out + 10
    assert visitor.missed == []
    assert first["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in salon.pods("poet")}
    assert now["status"]["url"] == f"http://poet-chat.{salon.namespace}.svc:7860"
    assert page_of(salon) == ("", "")


STAND_IN = '''\
#!/usr/bin/python3
"""What vLLM is to a pod: its command line, its port, its answers to probes; it tells its command line as the root of its model, and what it
was asked as its answer, with the place of the adapter that answers. Adapters come and go as vLLM lets them; asked to, it dies."""
import json, os, sys, http.server

arguments = sys.argv[1:]
assert arguments[0] == "serve", arguments
loras = {}

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        metrics = '# TYPE vllm:request_success counter\\nvllm:request_success_total{finished_reason="stop"} 3.0\\n'
        name = arguments[arguments.index("--served-model-name") + 1]
        models = [{"id": name, "root": arguments, "max_model_len": 512, "parent": None}]
        models += [{"id": each, "root": path, "parent": name} for each, path in loras.items()]
        listed = json.dumps({"object": "list", "data": models})
        told = {"/health": "", "/metrics": metrics, "/v1/models": listed}.get(self.path)
        self.send_response(404 if told is None else 200)
        self.end_headers()
        self.wfile.write((told or "").encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/die":
            os._exit(1)
        if "lora" in self.path:
            assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True" and "--enable-lora" in arguments
        if self.path == "/v1/load_lora_adapter":
            assert os.path.isfile(asked["lora_path"] + "/adapter_config.json"), asked
            loras[asked["lora_name"]] = asked["lora_path"]
        elif self.path == "/v1/unload_lora_adapter":
            del loras[asked["lora_name"]]
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"asked": asked, "by": loras.get(asked.get("model"))}).encode())

    def log_message(self, *_):
        pass

port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer((arguments[arguments.index("--host") + 1], port), Answer).serve_forever()
'''


def halved(base: Path, folder: Path) -> None:
    """An adapter of the base that has lost the weights of its first layer."""
    adapter_of(base, folder)
    file = folder / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if ".layers.0." not in name}, file)
    let_read(folder)


def let_read(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o644)


@pytest.fixture
def stand_in(bed: Bed) -> str:
    """An image with a `vllm` that has no model and needs no GPU."""
    config = {"Env": [f"PATH={images.SEARCH_PATH}"]}
    layers = (images.Layer(bound=debian.base()), images.Layer({"usr/local/bin/vllm": STAND_IN.encode()}))
    return bed.load(images.Image("vllm", "bed.local/vllm:1", layers, config))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
@pytest.mark.timeout(900)
def test_an_adapter_that_vllm_would_half_load_is_refused_before_it_starts(mine: Team, stand_in: str) -> None:
    halved(mine.models / "tiny", mine.models / "half")
    with_half = chat(
        "half",
        model={"uri": "pvc://models/tiny", "from": None},
        adapters=[{"uri": "pvc://models/half"}],
        template=None,
        auth=None,
        engine="vLLM",
        pod={"image": stand_in, "imagePullPolicy": "Never"},
    )
    mine.apply(with_half)
    told = ready(mine.wait(with_half, "InvalidData"))["message"]
    assert told.startswith("spec.adapters[0] pvc://models/half: adapter_model.safetensors is not what"), told
    assert "it lacks 4 weights" in told


@pytest.mark.timeout(900)
def test_vllm_is_started_with_its_words_and_another_page_asks_it_from_elsewhere(mine: Team, stand_in: str) -> None:
    pod = {"image": stand_in, "imagePullPolicy": "Never"}
    external = chat(
        "poet",
        model={"uri": "pvc://models/tiny", "from": None},
        template=None,
        auth=None,
        engine="vLLM",
        pod=pod,
        systemPrompt="你是诗人。",
        limits={"maxQueue": 3},
    )
    mine.apply(external)
    now = mine.wait(external, "Serving")
    assert now["status"]["engine"] == {"name": "vLLM", "message": "spec.engine says so"}
    address = str(mine.bed.get("service", "poet-chat", "-n", mine.namespace)["spec"]["clusterIP"])
    (listed,) = httpx.get(f"http://{address}:8000/v1/models", timeout=30).json()["data"]
    words = listed["root"]
    assert (listed["id"], listed["alpaca"]["systemPrompt"]) == ("poet", "你是诗人。")
    question = {"role": "user", "content": "问"}
    body = {"model": "poet", "messages": [question]}
    told = httpx.post(f"http://{address}:8000/v1/chat/completions", json=body, timeout=30).json()["asked"]
    assert told["messages"] == [{"role": "system", "content": "你是诗人。"}, question]
    assert words[:2] == ["serve", "/mnt/models/tiny"]
    assert words[words.index("--served-model-name") + 1] == "poet"
    until(lambda: found(mine)["status"].get("traffic", {}).get("requests") == 3, "vLLM's figures in the status", 60)

    url = f"http://{address}:8000/v1"
    elsewhere = chat("window", model=None, template=None, auth=None, engine="External", endpoint={"url": url})
    mine.apply(elsewhere)
    now = mine.wait(elsewhere, "Serving")
    (pod_of_window,) = mine.pods("window")
    assert [each["name"] for each in pod_of_window["spec"]["containers"]] == ["ui"]
    assert (now["status"]["apiUrl"], now["status"]["model"]["display"]) == (url, url)


DIES = "import urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8001/die', b'{}'), timeout=9)"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_vllm_is_told_of_adapters_that_come_and_go_and_again_when_it_has_started_anew(
    mine: Team, stand_in: str
) -> None:
    for name in ("one", "two"):
        let_read(adapter_of(mine.models / "tiny", mine.models / name))
    halved(mine.models / "tiny", mine.models / "half")
    serving = chat(
        "poet",
        model={"uri": "pvc://models/tiny", "from": None},
        adapters=[{"name": "haiku", "uri": "pvc://models/one"}],
        template=None,
        auth=None,
        engine="vLLM",
        pod={"image": stand_in, "imagePullPolicy": "Never"},
    )
    mine.apply(serving)
    mine.wait(serving, "Serving")
    (pod,) = mine.pods("poet")
    address = str(mine.bed.get("service", "poet-chat", "-n", mine.namespace)["spec"]["clusterIP"])
    assert models_of(address) == ["poet", "haiku"], "a pod is ready with what is on its list"

    def patch(**uris: str) -> None:
        adapters = [{"name": name, "uri": f"pvc://models/{uri}"} for name, uri in uris.items()]
        mine.kubectl("patch", "chat", "poet", "--type=merge", "-p", json.dumps({"spec": {"adapters": adapters}}))

    def is_by(place: str | None) -> bool:
        body = {"model": "haiku", "messages": [{"role": "user", "content": "问"}]}
        try:
            told = httpx.post(f"http://{address}:8000/v1/chat/completions", json=body, timeout=30)
        except httpx.TransportError:  # the Service has no pod while vLLM starts
            return False
        return told.status_code == 200 and told.json()["by"] == place

    def says(*expected: str) -> None:
        until(lambda: said_of_adapters(mine)[0] == expected[0], f"the condition to be {expected}", 180, every=0.5)
        assert said_of_adapters(mine)[1].startswith(expected[1])

    assert is_by("/mnt/models/one")
    says("Serving", "haiku answers")
    patch(haiku="two", odd="half")
    until(lambda: is_by("/mnt/models/two"), "the exchanged one to answer", 180, every=0.5)
    says("AdapterRefused", "odd: spec.adapters[odd] pvc://models/half: adapter_model.safetensors is not what")
    line = "adapter odd is not served"
    until(lambda: line in ready(found(mine))["message"], "the line of the deployment to tell of it", 180, every=0.5)

    mine.kubectl("exec", pod["metadata"]["name"], "-c", "engine", "--", "python3", "-c", DIES, check=False)

    def restarts() -> int:
        statuses = mine.pods("poet")[0]["status"]["containerStatuses"]
        return int(next(each["restartCount"] for each in statuses if each["name"] == "engine"))

    until(lambda: restarts() == 1, "vLLM to start anew", 180, every=0.5)
    until(lambda: is_by("/mnt/models/two"), "it to be told again", 180, every=0.5)
    patch(haiku="two")
    says("Serving", "haiku answers")
    (now,) = mine.pods("poet")
    assert now["metadata"]["uid"] == pod["metadata"]["uid"]
