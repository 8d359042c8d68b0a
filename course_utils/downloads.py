"""What the course takes from the Hub: whole, checked, and nothing that could run code."""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from http import HTTPStatus
from http.client import responses
from pathlib import Path

from course_utils.messages import tr

WAITS = (2, 8)  # seconds before the second and the third try
SILENCE = 10  # seconds without an answer after which a Hub counts as out of reach
CHECKED = ".checked.json"  # in a snapshot whose checksums were right: the sizes of its files
FULL, SHUT = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def snapshot(
    what: str, ids: Iterable[str], needed: tuple[str, ...], beside: tuple[str, ...], mend: str, kind="model"
) -> tuple[str, Path]:
    """The first of `ids` that can be had, and the folder with its files, from the Hub or from the cache.

    ids: "owner/name", or "owner/name@revision". needed: patterns of paths, at least one file of which there
    must be; beside: patterns of small files that go with them. Everything else stays on the Hub: pickles and
    code are never fetched. kind: "model" or "dataset". What may pass is tried three times, with the wait
    printed; a file with a wrong checksum is thrown away. what, mend: for the sentence that ends it all.
    Raises ConnectionError if no id can be had, and OSError if there is no room for the files.
    """
    failures = []
    for hub_id in ids:
        try:
            folder = _patiently(hub_id, needed, beside, kind)
        except Exception as error:  # the clients raise a dozen kinds; all mean: try the next
            require_room(error, mend)
            failures.append(f"{hub_id}: {reason(error)}")
            continue
        if failures:
            print(tr("Took {hub_id} instead ({failures}).", hub_id=hub_id, failures="; ".join(failures)))
        return hub_id, folder
    raise ConnectionError(
        tr(
            "got no {what} from the Hub ({failures}), expected a network and one of these ids: try again "
            "later, or {mend}.",
            what=what,
            failures="; ".join(failures),
            mend=mend,
        )
    )


def _patiently(hub_id, *wanted):
    for wait in WAITS:
        try:
            return _whole(hub_id, *wanted)
        except Exception as error:
            if not _may_pass(error):
                raise
            print(
                tr(
                    "{hub_id}: {reason}. Trying again in {wait} seconds.",
                    hub_id=hub_id,
                    reason=reason(error),
                    wait=wait,
                ),
                flush=True,
            )
            time.sleep(wait)
    return _whole(hub_id, *wanted)


def _whole(hub_id, needed, beside, kind):
    """One try: the folder, once each of its files has been found as the Hub describes it."""
    from huggingface_hub import HfApi, snapshot_download

    name, _, revision = hub_id.partition("@")
    which = {"repo_type": kind, "revision": revision or None}
    patterns = [*needed, *beside]
    try:  # snapshot_download itself would wait for a silent Hub without end
        HfApi().repo_info(name, timeout=SILENCE, **which)
    except Exception:
        if kept := _kept(name, patterns, which):
            return kept
        raise
    folder = Path(snapshot_download(name, allow_patterns=patterns, **which))
    if not _noted(folder):
        files = [file for file in _listed(name, folder, kind) if _fits(file.path, patterns)]
        if not any(_fits(file.path, needed) for file in files):
            raise ValueError(
                tr("it has no {files}, which is what can be read without risk", files=tr(" or ").join(needed))
            )
        for file in files:
            _require_right(folder / file.path, file)
        with suppress(OSError):  # a cache that may only be read is checked again next time
            (folder / CHECKED).write_text(json.dumps({file.path: file.size for file in files}))
    return folder


def _kept(name, patterns, which):
    """The folder of an earlier download that was whole, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True, **which))
    except Exception:  # the clients raise several kinds; all mean: there is none
        return None
    return folder if _noted(folder) else None


def _noted(folder):
    """Whether the files were once checked, and still have the sizes that they had then."""
    try:
        sizes = json.loads((folder / CHECKED).read_text())
    except (OSError, ValueError):  # never checked, or stopped while it was noted
        return False
    there = [(folder / path).exists() and (folder / path).stat().st_size == sizes[path] for path in sizes]
    return all(there)


def _listed(name, folder, kind):
    """The files of the commit that `folder` is named after."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = HfApi().list_repo_tree(name, recursive=True, revision=folder.name, repo_type=kind)
    return [entry for entry in entries if isinstance(entry, RepoFile)]


def _fits(path, patterns):
    return any(fnmatch(path, pattern) for pattern in patterns)


def _require_right(path, file):
    """Throw the file away, and its content in the cache, if its checksum is not the Hub's."""
    digest, right = (sha256(path), file.lfs.sha256) if file.lfs else (_git_id(path), file.blob_id)
    if digest != right:
        content = path.resolve()
        path.unlink()
        content.unlink(missing_ok=True)
        raise OSError(tr("the checksum of {path} was wrong", path=file.path))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_id(path):
    """What git, and the Hub, call the content of a small file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _chain(error) -> Iterator[BaseException]:
    """An error, and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error):
    """The status of the answer that the error is about, or None."""
    answers = (getattr(link, "response", None) for link in _chain(error))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _may_pass(error):
    """Whether another try can help: not for what is missing or closed, nor for a full disk."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status, root = _status(error), list(_chain(error))[-1]
    if status is not None:
        return status >= 500 or status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT)
    return not isinstance(root, (ValueError, OfflineModeIsEnabled)) and _disk(error) is None


def reason(error: BaseException) -> str:
    """Why a download failed, in a few words."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    chain = list(_chain(error))
    for kind, words in (
        (OfflineModeIsEnabled, tr("the variable HF_HUB_OFFLINE is set: unset it and restart")),
        (GatedRepoError, tr("it is gated: accept its terms on its page, then set HF_TOKEN")),
        (RepositoryNotFoundError, tr("there is no such repository, or it is private")),
    ):
        if any(isinstance(link, kind) for link in chain):
            return words
    status = _status(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return tr("the Hub did not accept the token: correct HF_TOKEN, or unset it")
    if status:
        answer = f"{status} {responses.get(status, '')}".strip()
        return tr("the Hub answered {answer}", answer=answer)
    return (str(chain[-1]) or type(chain[-1]).__name__).splitlines()[0][:120]


def _disk(error):
    """What is wrong with the disk, or None."""
    for link in _chain(error):
        code, place = getattr(link, "errno", None), getattr(link, "filename", None)
        if code in FULL or "No space left" in str(link):
            return tr("is full")
        if code in SHUT and place:  # without a place, it is the network that refused
            return tr("may not be written")
    return None


def require_room(error: BaseException, mend: str) -> None:
    """Raise OSError, in one sentence, if `error` says that the disk is full or may not be written."""
    from huggingface_hub import constants

    if problem := _disk(error):
        raise OSError(
            tr(
                "got a disk that {problem} ({folder}), expected room for a download: free some, set "
                "HF_HOME to a folder elsewhere and restart, or {mend}.",
                problem=problem,
                folder=constants.HF_HOME,
                mend=mend,
            )
        ) from error
