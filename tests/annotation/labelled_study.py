"""A study with the files that people need to label it, and its page as a browser sees it."""

import re
from html import unescape

import yaml

from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.annotation.study import AnnotatedStudy
from persuasion_rl.files import write_jsonl
from persuasion_rl.prompts.wording import PLAIN

IN_PRACTICE = "It does not count."
HOSTILE = """</p></main><script>alert('x')</script><img src=x onerror=alert(1)>" onmouseover="alert(1) {{ 7 * 7 }} \u202e"""
SECRET = {
    "prompt_id": "cmv-secret1", "conversation_id": "secret2", "model_digest": "secret3", "engine": "secret4",
    "model": "secret5",
}  # fmt: skip


def write_study(folder, pairs=40, hostile=False, **human):
    """Write the files of a study that is ready to be labelled."""
    human_settings = {"overlap": 0.2, "several": 2, "repeats": 0.0, "min_labels": 200} | human
    settings = {
        "study": "demo", "seed": 1, "device": "cpu", "trust_remote_code": False,
        "data": {"prompt_format": "plain", "max_context_tokens": 400},
        "labels": {"human": human_settings}, "llm": {"rubric": "resources/rubrics/persuasiveness.md"},
        "models": {"base": {"source": "standin"}, "sft": {"parent": "base", "method": "sft"}},
    }  # fmt: skip
    folder.mkdir(parents=True)
    folder.joinpath("config.yaml").write_text(yaml.safe_dump(settings))
    rows = [
        {
            "prompt": PLAIN.render(f"Claim: CMV: claim {i}\nPoster: Because of {HOSTILE if hostile else i}.", "cmv"),
            "response_1": f"One {i}. {HOSTILE if hostile else ''}", "response_2": f"Two {i}.",
            "metadata": {**SECRET, "conversation_id": f"secret{i}", "source": "cmv"},
        }
        for i in range(pairs)
    ]  # fmt: skip
    write_jsonl(folder / "preferences/human_pool_responses.jsonl", rows)
    return AnnotatedStudy(folder)


def open_page(study, name="anna", token=None, practised=True):
    """A client that behaves like a browser and has finished the practice."""
    from starlette.testclient import TestClient

    from persuasion_rl.annotation.web import make_app

    page = TestClient(make_app(study, token), base_url="http://127.0.0.1", follow_redirects=True)
    page.get("/", params={"token": token} if token else None)
    page.post("/name", data={"name": name})
    while practised and IN_PRACTICE in page.get("/pair").text:
        answer(page, "tie")
    return page


def form_of(page, path="/pair"):
    """The hidden fields and the texts of a page."""
    text = page.get(path).text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    return fields, [
        unescape(t) for t in re.findall(r'<p class="text" dir="auto">(.*?)</p>', text, re.DOTALL)
    ]


def pair_of(study, fields):
    """The pair that a page's form answers."""
    with AnswerStore(study.answers) as store:
        return store.showing(int(fields["showing"])).pair


def first_answers(study):
    return [a for a in read_answers(study.answers) if a.kind == "first"]


def answer(page, verdict, **further):
    fields, _ = form_of(page)
    return page.post("/pair", data={**fields, "answer": verdict, **further})
