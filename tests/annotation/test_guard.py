"""What the server refuses: wrong tokens, hosts and origins, and large requests."""

import re
import socket
import time

import pytest
from starlette.testclient import TestClient

from labelled_study import form_of, open_page, write_study
from persuasion_rl.annotation.guard import LARGEST_REQUEST
from persuasion_rl.annotation.store import read_answers
from persuasion_rl.annotation.web import make_app, reachable_names, serve


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "results/demo")


def test_other_sites_and_large_requests_are_refused(study):
    page = open_page(study)
    fields, _ = form_of(page)
    data = {**fields, "answer": "left"}
    before = read_answers(study.answers)
    assert (
        page.post("/pair", data=data, headers={"Origin": "http://evil.example"}).status_code == 403
    )
    for origin in ("null", "http://[", "http://127.0.0.1:x"):
        assert page.post("/pair", data=data, headers={"Origin": origin}).status_code == 403
    assert page.get("/pair", headers={"Host": "evil.example"}).status_code == 403
    large = {**data, "reason": "x" * LARGEST_REQUEST}
    assert page.post("/pair", data=large).status_code == 413
    chunks = (b"answer=left&reason=" + b"x" * 1024 for _ in range(LARGEST_REQUEST // 1024 + 1))
    assert page.post("/pair", content=chunks).status_code == 400
    assert page.post("/pair", content=b"answer=%ff").status_code == 400
    assert read_answers(study.answers) == before
    assert page.post("/pair", data=data, headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_beyond_loopback_a_token_is_asked_for(study):
    stranger = TestClient(make_app(study, "s3cret"), base_url="http://lab.example")
    for path in ("/", "/pair", "/results", "/page.js", "/?token=wrong"):
        assert stranger.get(path).status_code == 403
    assert stranger.post("/name", data={"name": "eve"}).status_code == 403
    friend = open_page(study, token="s3cret")
    assert friend.get("/pair").status_code == 200
    assert "s3cret" not in friend.get("/pair").text


@pytest.mark.parametrize(("host", "open_to_all"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_beyond_this_machine_a_token_is_drawn_and_asked_for(
    study, monkeypatch, capsys, host, open_to_all
):
    """The page is served as by the command, up to the socket."""
    apps = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, **_: apps.append(self.config.app))
    for _ in range(2):
        serve(study, host, 0)
    tokens = re.findall(r"\?token=(\S+)", capsys.readouterr().out)
    assert (tokens == []) is open_to_all and (open_to_all or len(set(tokens)) == 2)
    page = TestClient(apps[0], base_url="http://127.0.0.1", follow_redirects=True)
    assert (page.get("/").status_code == 200) is open_to_all
    if not open_to_all:
        assert page.get("/", params={"token": tokens[-1]}).status_code == 403
        assert page.get("/", params={"token": tokens[0]}).status_code == 200


def test_pages_on_two_ports_of_a_host_keep_cookies_of_their_own(study):
    page = TestClient(make_app(study, "s3cret"), base_url="http://lab.example:7860")
    welcome = page.get("/?token=s3cret", follow_redirects=False)
    assert welcome.headers["set-cookie"].startswith("token_7860=s3cret")
    # Strict cookies are not sent along a link from another site, such as a mail on the web.
    assert "samesite=lax" in welcome.headers["set-cookie"].lower()
    page.post("/name", data={"name": "anna"})
    assert page.get("/pair").status_code == 200
    assert page.get("http://lab.example:7861/pair").status_code == 403


def test_an_address_that_listens_everywhere_is_printed_as_names_that_reach_it():
    assert reachable_names("127.0.0.1") == ["127.0.0.1"] and reachable_names("::1") == ["[::1]"]
    names = reachable_names("0.0.0.0")
    assert names[0] == socket.gethostname()
    assert not {"0.0.0.0", "127.0.0.1", "[::1]"} & set(names)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--port", "99999"], "--port 99999: a port is a number from 0"),
        (["--port", "-1"], "--port -1: a port is a number from 0"),
        (["--port", "taken"], "another program listens there; take another one"),
        (["--host", "no-such-host.invalid"], "--host no-such-host.invalid: not an address of this machine"),
        (["--host", "203.0.113.1"], "--host 203.0.113.1: not an address of this machine"),
        (["--host", "a" * 70 + ".b"], "not an address of this machine"),
    ],
)  # fmt: skip
def test_where_no_page_can_be_served_is_one_line_and_no_address(study, command_line, args, message):
    with socket.create_server(("127.0.0.1", 0)) as other:
        args = [str(other.getsockname()[1]) if arg == "taken" else arg for arg in args]
        run = command_line("tools.cli", "annotate", "--study", study.folder, *args)
    (line,) = run.stderr.splitlines()
    assert run.returncode == 1 and run.stdout == "" and message in line


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", ""])
def test_the_printed_port_is_the_one_that_is_served(study, monkeypatch, capsys, host):
    """The page is served by uvicorn itself, up to one request."""
    import threading
    import urllib.request

    import uvicorn

    statuses, run = [], uvicorn.Server.run

    def request_page(server):
        port = re.search(r"http://[^/]+:(\d+)/", capsys.readouterr().out)[1]
        while not server.started:
            time.sleep(0.01)
        here = "[::1]" if host == "::1" else "127.0.0.1"
        proxies = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            statuses.append(proxies.open(f"http://{here}:{port}/").status)
        except urllib.error.HTTPError as error:
            statuses.append(error.code)
        server.should_exit = True

    def run_and_request(server, **kwargs):
        threading.Thread(target=request_page, args=[server], daemon=True).start()
        run(server, **kwargs)

    monkeypatch.setattr("uvicorn.Server.run", run_and_request)
    serve(study, host, 0)
    assert statuses == [200 if host in ("127.0.0.1", "::1") else 403]


def test_a_folder_in_the_place_of_the_answers_is_named(study, command_line):
    study.answers.mkdir(parents=True)
    run = command_line("tools.cli", "annotate", "--study", study.folder)
    assert run.returncode == 1 and run.stderr.splitlines() == [
        f"error: {study.answers}: a folder, where people's answers are kept: move it away"
    ]
