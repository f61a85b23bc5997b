"""Fetching through ConvoKit's own code, from a server on this machine that also fails in many ways.

The server is the fetch's proxy: it answers plain http itself, and https with a certificate of an authority
that only the fetch trusts. Connections to anything but this machine are refused.
"""

import io
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event

import psutil
import pytest
import trustme

from local_server import running_server
from persuasion_rl.data import fetch
from persuasion_rl.data.corpus import check_digests, read_threads
from persuasion_rl.files import UserError, file_digest, read_json

ROOT = Path(__file__).parents[2]
NAME, SUBREDDIT = "winning-args-corpus", "subreddit-changemyview"
ZISSOU = "http://zissou.infosci.cornell.edu/convokit/datasets/"
LIST = "/CornellNLP/ConvoKit/master/download_config.json"
ARCHIVE = f"{ZISSOU}{NAME}/{NAME}.zip"
GROUPS = f"{ZISSOU}subreddit-corpus/subreddit-groupings.txt"
SUBREDDIT_ARCHIVE = f"{ZISSOU}subreddit-corpus/corpus-zipped/ccc~-~ddd/changemyview.corpus.zip"
DATA_SETS = {
    "cur_version": {NAME: 1, "subreddit": 1},
    "DatasetURLs": {NAME: ARCHIVE},
    "ModelURLS": {},
}


class Answering(BaseHTTPRequestHandler):
    """Answers as the server's `pages` say: a page is a list of answers, of which the last is repeated."""

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.setup()
        self.handle_one_request()
        self.wfile.flush()
        self.request.close()

    def do_GET(self):
        self.server.requests.append(self.path)
        answers = self.server.pages.get(self.path, [status(404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def begin(self, body: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def log_message(self, *_):
        pass


def status(code):
    def answer(handler):
        handler.begin(b"<html>no</html>", code)
        handler.wfile.write(b"<html>no</html>")

    return answer


def complete(body: bytes):
    def answer(handler):
        handler.begin(body)
        handler.wfile.write(body)

    return answer


def half(body: bytes, hang: bool = False):
    """Break off in the middle, or stop sending there but keep the connection."""

    def answer(handler):
        handler.begin(body)
        handler.wfile.write(body[: len(body) // 2])
        handler.server.half_sent.set()
        if hang:
            handler.server.closing.wait(60)

    return answer


def slowly(body: bytes, seconds: float):
    def answer(handler):
        handler.begin(body)
        for start in range(0, len(body), 100_000):
            handler.wfile.write(body[start : start + 100_000])
            time.sleep(seconds * 100_000 / len(body))

    return answer


def serving(authority: trustme.CA):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("raw.githubusercontent.com").configure_cert(tls)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.tls, server.requests = tls, []
    server.half_sent, server.closing = Event(), Event()
    server.pages = {LIST: [complete(json.dumps(DATA_SETS).encode())]}
    return running_server(server)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def server(authority):
    with serving(authority) as server:
        yield server


class Fetching:
    """Runs the fetch of a corpus into a folder, as the workflow does, with a home and a network of its own."""

    def __init__(self, folder: Path, port: int, authority: trustme.CA):
        self.folder, self.home = folder, folder / "home"
        self.refused_log = folder / "refused.log"
        self.home.mkdir()
        (folder / "authority.pem").write_bytes(authority.cert_pem.bytes())
        proxy = {
            "http_proxy": f"http://127.0.0.1:{port}",
            "https_proxy": f"http://127.0.0.1:{port}",
        }
        self.environment = {
            **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
            **proxy,
            **{key.upper(): value for key, value in proxy.items()},
            "REQUESTS_CA_BUNDLE": str(folder / "authority.pem"),
            "SSL_CERT_FILE": str(folder / "authority.pem"),
            "HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow"), str(ROOT / "tests/no_network")]),
            "NETWORK_LOG": str(self.refused_log),
        }

    def output(self, name: str = NAME) -> Path:
        return self.folder / "corpora" / name

    def part(self, name: str = NAME) -> Path:
        return self.folder / "corpora" / f".{name}.part"

    def start(self, name: str = NAME, **settings) -> subprocess.Popen:
        self.output(name).mkdir(parents=True, exist_ok=True)  # Snakemake does it before the job
        words = [sys.executable, "-m", "persuasion_rl.data.fetch", "fetch_corpus", "--name", name]
        words += ["--output", str(self.output(name))]
        for key, value in settings.items():
            words += [f"--{key}", str(value)]
        return subprocess.Popen(words, env=self.environment, stderr=subprocess.PIPE, text=True)

    def __call__(self, name: str = NAME, **settings) -> tuple[int, str]:
        """The exit status and standard error. What must hold after every fetch is checked here."""
        with self.start(name, **settings) as run:
            stderr = run.communicate(timeout=60)[1]
        assert not self.part(name).exists()
        assert not list(self.home.iterdir()), "something was written to the home folder"
        assert not self.refused_log.exists(), self.refused_log.read_text()
        assert not self.processes()
        assert "Traceback" not in stderr
        return run.returncode, stderr

    def succeed(self, name: str = NAME, **settings) -> str:
        code, stderr = self(name, **settings)
        assert code == 0, stderr
        return stderr

    def fail(self, name: str = NAME, **settings) -> tuple[str, str]:
        """Standard error and its last line, the only one that starts with `error:`."""
        code, stderr = self(name, **settings)
        assert code == 1, stderr
        assert re.findall("^error:", stderr, flags=re.MULTILINE) == ["error:"]
        error = stderr.splitlines()[-1]
        assert error.startswith("error:")
        return stderr, error

    def processes(self) -> list[psutil.Process]:
        """What still runs of the fetches of this folder."""
        running = psutil.process_iter(["cmdline"])
        return [p for p in running if str(self.folder) in " ".join(p.info["cmdline"] or [])]


@pytest.fixture
def fetching(server, authority, tmp_path):
    fetching = Fetching(tmp_path, server.server_port, authority)
    yield fetching
    for process in fetching.processes():
        process.kill()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A small corpus in ConvoKit's layout, with a file that does not compress. Read only."""
    folder = tmp_path_factory.mktemp("served") / NAME
    folder.mkdir()
    rows = [
        {
            "id": f"t1_{n}", "conversation_id": f"t1_{n - n % 2}", "reply-to": f"t1_{n - 1}" if n % 2 else None,
            "speaker": "anna", "text": f"In the end, no. {n}", "timestamp": n, "meta": {}, "vectors": [],
        }
        for n in range(100)
    ]  # fmt: skip
    threads = {row["id"]: {"meta": {}, "vectors": []} for row in rows if not row["reply-to"]}
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "conversations.json").write_text(json.dumps(threads))
    (folder / "speakers.json").write_text(json.dumps({"anna": {"meta": {}, "vectors": []}}))
    (folder / "corpus.json").write_text("{}")
    (folder / "index.json").write_text(json.dumps({"version": 1}))
    (folder / "vectors.noise.p").write_bytes(random.Random(1).randbytes(900_000))
    return folder


def zipped(folder: Path, prefix: str = f"{NAME}/", **changed: bytes) -> bytes:
    """The folder as an archive; `changed` gives files (without their endings) another content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.writestr(prefix + path.name, changed.get(path.stem, path.read_bytes()))
    return file.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def manual(name: str) -> list[str]:
    """What the message must tell a person to do without the download."""
    documentation = "https://convokit.cornell.edu/documentation/datasets.html"
    files = [f"{name}/utterances.jsonl", f"{name}/conversations.json"]
    return [f"cannot download {name}: ", "by hand", documentation, "corpora_dir", *files]


@pytest.fixture(scope="module")
def fetched(corpus, authority, tmp_path_factory) -> Path:
    """The corpus, fetched once. Read only."""
    fetching = Fetching(tmp_path_factory.mktemp("fetched"), 0, authority)
    with serving(authority) as server:
        server.pages[ARCHIVE] = [complete(zipped(corpus))]
        for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            fetching.environment[key] = f"http://127.0.0.1:{server.server_port}"
        fetching.succeed()
        assert server.requests == [LIST, ARCHIVE]
    return fetching.output()


def test_a_fetched_corpus_is_what_the_server_has(fetched, corpus):
    assert contents(fetched) == contents(corpus)
    assert list(read_threads(fetched)) == list(read_threads(corpus))


def test_sizes_and_digests_are_recorded_beside_it(fetched, corpus):
    assert sorted(path.name for path in fetched.parent.iterdir()) == [NAME, f"{NAME}.digests.json"]
    assert read_json(fetched.parent / f"{NAME}.digests.json") == {
        path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in corpus.iterdir()
    }


def test_a_subreddit_is_found_by_its_group_and_unpacked(server, fetching, corpus):
    server.pages[GROUPS] = [complete(b"aaa~-~bbb\nccc~-~ddd\n")]
    server.pages[SUBREDDIT_ARCHIVE] = [complete(zipped(corpus, prefix=""))]
    fetching.succeed(SUBREDDIT)
    assert server.requests == [LIST, GROUPS, SUBREDDIT_ARCHIVE]
    assert contents(fetching.output(SUBREDDIT)) == contents(corpus)


def test_after_a_break_a_slow_but_steady_download_is_waited_for(server, fetching, corpus):
    body = zipped(corpus)
    server.pages[ARCHIVE] = [half(body), slowly(body, seconds=5)]
    stderr = fetching.succeed(retries=1, timeout_s=3)
    assert contents(fetching.output()) == contents(corpus)
    assert (
        "attempt 1 of 2 failed: BadZipFile: File is not a zip file (was the archive cut" in stderr
    )


def test_a_server_that_hangs_is_given_up(server, fetching, corpus):
    server.pages[ARCHIVE] = [half(zipped(corpus), hang=True)]
    began = time.monotonic()
    stderr, error = fetching.fail(retries=1, timeout_s=1)
    assert time.monotonic() - began < 30
    assert server.requests == [LIST, ARCHIVE] * 2
    assert stderr.count("failed: no data for 1 s") == 2
    assert all(word in error for word in [*manual(NAME), "no data for 1 s"])
    assert contents(fetching.output()) == {}


@pytest.mark.parametrize(
    "name, requests, expected",
    [
        (NAME, [LIST, ARCHIVE], ["404", ARCHIVE]),
        ("no-such-corpus", [LIST], ["no-such-corpus", "has ConvoKit a corpus of this name?"]),
    ],
)
def test_what_is_not_there_is_not_asked_for_again(server, fetching, name, requests, expected):
    stderr, error = fetching.fail(name)
    assert server.requests == requests
    assert stderr.count("failed: ") == 1
    assert all(word in error for word in manual(name) + expected)


def test_a_failing_server_is_asked_again(server, fetching):
    server.pages[LIST].insert(0, status(500))
    server.pages[ARCHIVE] = [status(500), status(503)]
    stderr, error = fetching.fail(retries=2)
    assert server.requests == [LIST, LIST, ARCHIVE, LIST, ARCHIVE]
    reasons = re.findall(r"attempt \d of 3 failed: (.*)", stderr)
    for reason, word in zip(reasons, ("list of data sets", "500", "503"), strict=True):
        assert word in reason
    assert all(word in error for word in [*manual(NAME), "503"])
    assert contents(fetching.output()) == {}


def test_offline_says_what_to_do_by_hand(authority, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        fetching = Fetching(tmp_path, closed.getsockname()[1], authority)
        stderr, error = fetching.fail(retries=1)
    assert stderr.count("failed: ") == 2
    assert all(word in error for word in manual(NAME))


def test_a_killed_fetch_ends_its_download_and_the_next_starts_anew(server, fetching, corpus):
    server.pages[ARCHIVE] = [half(zipped(corpus), hang=True), complete(zipped(corpus))]
    with fetching.start() as killed:
        assert server.half_sent.wait(20)
        assert len(fetching.processes()) == 2
        killed.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while fetching.processes():
        assert time.monotonic() < end, "the download goes on without its parent"
        time.sleep(0.1)
    assert contents(fetching.output()) == {}
    leftover = fetching.part() / NAME / "left"  # as if killed later, while it unpacked
    leftover.parent.mkdir()
    leftover.touch()
    fetching.succeed()
    assert contents(fetching.output()) == contents(corpus)


@pytest.mark.parametrize(
    "end, expected", [(-20, "utterances.jsonl, line "), (None, "was it cut off?")]
)
def test_a_corpus_that_cannot_be_read_never_gets_its_name(server, fetching, corpus, end, expected):
    # Cut off within a line, or behind one: then the last conversations have no utterance.
    lines = (corpus / "utterances.jsonl").read_bytes().splitlines(keepends=True)
    cut = b"".join(lines)[:end] if end else b"".join(lines[:30])
    server.pages[ARCHIVE] = [complete(zipped(corpus, utterances=cut))]
    _, error = fetching.fail()
    assert server.requests == [LIST, ARCHIVE]
    assert all(word in error for word in [*manual(NAME), expected])
    assert contents(fetching.output()) == {}
    assert [path.name for path in fetching.output().parent.iterdir()] == [NAME]


def test_another_content_than_at_the_first_download_is_refused(server, fetching, corpus, fetched):
    shutil.copytree(fetched.parent, fetching.output().parent)
    record = fetching.output().parent / f"{NAME}.digests.json"
    corpus_before, record_before = contents(fetching.output()), record.read_bytes()
    other = (corpus / "utterances.jsonl").read_bytes().replace(b"the", b"teh", 1)
    server.pages[ARCHIVE] = [complete(zipped(corpus, utterances=other))]
    _, error = fetching.fail()
    first = read_json(record)["utterances.jsonl"]["sha256"]
    for word in ("utterances.jsonl has SHA-256 ", first[:12], str(record), "delete the record"):
        assert word in error
    assert contents(fetching.output()) == corpus_before and record.read_bytes() == record_before

    record.unlink()
    fetching.succeed()
    assert contents(fetching.output()) == corpus_before | {"utterances.jsonl": other}
    assert read_json(record)["utterances.jsonl"]["sha256"] != first


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage, message",
    [
        (change_a_byte, "utterances.jsonl has SHA-256 "),
        (cut_off, "utterances.jsonl has "),
        (Path.unlink, "utterances.jsonl is missing"),
    ],
)
def test_a_corpus_that_changed_after_its_download_is_refused(fetched, tmp_path, damage, message):
    shutil.copytree(fetched.parent, tmp_path / "corpora")
    folder = tmp_path / "corpora" / NAME
    check_digests(folder)
    damage(folder / "utterances.jsonl")
    with pytest.raises(UserError, match=message) as raised:
        check_digests(folder)
    for word in (str(folder), "not the file that was downloaded", "delete the folder and fetch it"):
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_another_size_is_not_hashed(fetched, tmp_path, monkeypatch):
    shutil.copytree(fetched.parent, tmp_path / "corpora")
    folder = tmp_path / "corpora" / NAME
    for path in folder.iterdir():
        cut_off(path)
    monkeypatch.setattr(fetch, "file_digest", lambda path: pytest.fail(f"hashed {path}"))
    with pytest.raises(UserError, match=r"bytes, not"):
        check_digests(folder)


def test_a_corpus_without_a_record_is_not_checked(corpus):
    check_digests(corpus)
