"""``hf://org/name[@branch]``: a push to the Hugging Face hub.

Large files go up first and belong to no revision; one commit then names all of them, so that a reader finds the whole model or none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ARTIFACT_FILE
from workloads.publication import bundle
from workloads.publication.bundle import CARD, Bundle
from workloads.publication.place import PlaceUnreachable, PushRefused, Target, must_be_ours
from workloads.storage import hub
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

MAIN = "main"
OF_A_NEW_REPOSITORY = (".gitattributes", CARD)
"""Files that a repository has before anybody pushed a model to it."""


class Repository:
    """A repository of the hub, at one branch."""

    def __init__(self, target: Target) -> None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        parsed = hub.parse(target.asked.uri, "Model", target.where)
        self._target = target
        self._name = parsed.name
        self._branch = parsed.revision or MAIN
        endpoint = target.credentials.get("HF_ENDPOINT") or constants.ENDPOINT
        disable_progress_bars()
        self._api: HfApi = HfApi(endpoint=endpoint, token=target.credentials.get("HF_TOKEN") or None)
        self.address = self._name

    def push(self, pushed: Bundle) -> str:
        """The commit in which the repository holds ``pushed``; nothing is sent where it does already. Raises PushRefused, PlaceUnreachable."""
        with self._explained():
            head = self._head()
            there = self._artifact(head)
            if pushed.is_of(there):
                self._target.log(f"{self._target.asked.uri} holds it already, in commit {head.sha}")
                return str(head.sha)
            self._must_be_ours(head, there)
            return self._commit(pushed, head, there)

    def _head(self) -> ModelInfo:
        """The branch as it is, made where it is not there."""
        from huggingface_hub import errors

        try:
            return self._api.model_info(self._name, revision=self._branch)
        except errors.RevisionNotFoundError:
            self._api.create_branch(self._name, branch=self._branch, exist_ok=True)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            self._api.create_repo(self._name, private=self._target.private, exist_ok=True)
            if self._branch != MAIN:
                self._api.create_branch(self._name, branch=self._branch, exist_ok=True)
        return self._api.model_info(self._name, revision=self._branch)

    def _artifact(self, head: ModelInfo) -> contract.Artifact | None:
        if ARTIFACT_FILE not in _names(head):
            return None
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self._name, ARTIFACT_FILE, revision=head.sha, endpoint=self._api.endpoint)
        answer = get_session().get(url, headers=build_hf_headers(token=self._api.token), follow_redirects=True)
        hf_raise_for_status(answer)
        return bundle.read(answer.content)

    def _must_be_ours(self, head: ModelInfo, there: contract.Artifact | None) -> None:
        names = _names(head)
        must_be_ours(names, there, self._target.where)
        if ".gitignore" in names:
            raise PushRefused(
                f"{self._target.where}: its .gitignore makes the hub leave files out without a word: remove it, or name another repository"
            )

    def _commit(self, pushed: Bundle, head: ModelInfo, there: contract.Artifact | None) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        names = _names(head)
        before = [file.path for file in there.files] if there else []
        gone = [path for path in before if path in names and path not in pushed.files]
        added = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in pushed.files.items()
        ]
        made = self._api.create_commit(
            self._name,
            [*added, *(CommitOperationDelete(path_in_repo=path) for path in gone)],
            commit_message=pushed.title,
            commit_description=f"{pushed.artifact.digest}, by Literary Alpaca",
            revision=self._branch,
            parent_commit=head.sha,
        )
        self._target.log(f"pushed {len(pushed.files)} files to {self._target.asked.uri} in commit {made.oid}")
        return str(made.oid)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the hub and its client say, in our words."""
        import httpx2
        from huggingface_hub import errors

        where, at = self._target.where, self._api.endpoint
        token = self._target.token_state("HF_TOKEN")
        try:
            yield
        except errors.HFValidationError as error:
            raise PushRefused(f"{where}: {first_line(error)}") from error
        except errors.OfflineModeIsEnabled as error:
            raise PushRefused(f"{where}: HF_HUB_OFFLINE forbids to push: unset it") from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            said = (error.server_message or first_line(error)).splitlines()[0]
            if status in (401, 403, 404):
                raise PushRefused(
                    f"{where}: {at} does not let the token write there ({status}: {said}): give one with write access to {self._name} in {token}"
                ) from error
            if status == 412:
                raise PlaceUnreachable(f"{where}: somebody else has pushed there meanwhile ({said})") from error
            if 400 <= status < 500 and status not in (408, 409, 429):
                raise PushRefused(f"{where}: {at} refuses the push ({status}): {said}") from error
            raise PlaceUnreachable(f"{where}: {at} answers {status}: {said}") from error
        except httpx2.HTTPError as error:
            raise PlaceUnreachable(f"{where}: {at} broke off: {first_line(error) or type(error).__name__}") from error
        except RuntimeError as error:  # how its threads tell of an upload that failed, with the cause behind
            cause = error.__cause__
            if isinstance(cause, httpx2.HTTPError | errors.HfHubHTTPError):
                raise PlaceUnreachable(f"{where}: {first_line(error)} {first_line(cause)}") from error
            raise
        except ValueError as error:  # of its answers, and of a card that it does not take
            raise PushRefused(f"{where}: {first_line(error)}") from error


def _names(head: ModelInfo) -> list[str]:
    return [sibling.rfilename for sibling in head.siblings or ()]
