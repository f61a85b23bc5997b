"""How far a job is: lines that come often enough, and say how fast it is and what is left."""

import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from persuasion_rl.data.cmv import process_cmv
from persuasion_rl.data.fetch import _downloading
from persuasion_rl.data.p4g import process_p4g
from persuasion_rl.data.sides import Shares, assign_sides
from persuasion_rl.evaluation.tables import evaluate_ranking, evaluate_win_rates
from persuasion_rl.files import write_jsonl
from persuasion_rl.models.following import follow
from persuasion_rl.preferences.simulate_annotators import simulate_annotators
from persuasion_rl.runtime import progress
from persuasion_rl.runtime.progress import EVERY_S, Progress, reporting
from persuasion_rl.training.tokenize import Tokens, tokenize
from replies import player_rows
from response_pairs import BAD, GOOD, SETTINGS, row
from running import WORKFLOW
from small_corpora import WIDE, turn


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.s)
    return now


def test_a_line_says_what_is_done_how_fast_and_what_is_left(clock):
    job = Progress("sampling", 50, "samples", total_tokens=4_000)
    for _ in range(40):  # no sample ends, and tokens come
        clock.s += 1
        job.add(tokens=25)
    assert job.line() == (
        "sampling: 0 of 50 samples, 1,000 of about 4,000 tokens, 25 a second, about 2 min left"
    )


@pytest.mark.parametrize(
    "total, tokens, line",
    [
        (100, 0, "rows: 20 of 100 rows, 2 a second, about 40 s left"),
        (None, 0, "rows: 20 rows, 2 a second"),
        # Servers count the tokens of what has come; how many come is not known.
        (100, 700, "rows: 20 of 100 rows, 700 tokens, 70 a second, about 40 s left"),
    ],
)
def test_without_a_total_of_tokens_the_time_goes_by_units_and_without_any_it_is_not_guessed(
    clock, total, tokens, line
):
    job = Progress("rows", total)
    clock.s += 10
    job.add(done=20, tokens=tokens)
    assert job.line() == line


def test_the_clock_starts_again_and_stands_still_while_another_runs(clock):
    """As that of a training, which is evaluated before it and in between."""
    training, reading = Progress("training", total_tokens=1_000), Progress("reading")
    clock.s += 500
    training.begin(total_tokens=1_000)
    clock.s += 10
    training.add(tokens=100)
    with training.paused():
        reading.begin(total_tokens=200)
        clock.s += 5
        reading.add(tokens=100)
        assert reading.line() == "reading: 100 of about 200 tokens, 20 a second, about 5 s left"
    assert training.line() == "training: 100 of about 1,000 tokens, 10 a second, about 90 s left"


def test_a_line_says_that_nothing_moves(clock):
    job = Progress("judge llm", 40, "requests")
    clock.s += 18
    assert job.line() == "judge llm: 0 of 40 requests, 18 s so far"
    job.add(done=6)
    clock.s += 30
    assert job.line() == (
        "judge llm: 6 of 40 requests, 0.12 a second, about 5 min left, nothing new for 30 s"
    )
    assert Progress("tokenizer").line() == "tokenizer: 0 s so far"


def test_a_download_is_measured_by_what_lies_there(clock, tmp_path):
    download = _downloading("corpus", tmp_path)
    assert download.line() == "download of corpus: 0 s so far"
    clock.s += 10
    (tmp_path / "part").write_bytes(bytes(2_500_000))
    assert download.line() == "download of corpus: 2.5 MB, 0.25 a second"


def test_lines_come_while_a_step_is_slow_and_name_what_is_under_way(monkeypatch):
    """And after the last unit, or the last item, the whole has the word again."""
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    lines = []

    def words_of_a_slow_step() -> set[str]:
        del lines[:]
        time.sleep(0.2)
        return {line.split(":")[0] for line in lines[1:]}

    with reporting("the stage", lines.append):
        assert words_of_a_slow_step() == {"the stage"}
        part = Progress("a part", 2)
        part.add(done=1)
        assert words_of_a_slow_step() == {"a part"} and len(lines) > 4
        part.add(done=1)
        assert words_of_a_slow_step() == {"the stage"}
        for _ in Progress("items").over("ab"):
            assert words_of_a_slow_step() == {"items"}
        assert words_of_a_slow_step() == {"the stage"}
    assert words_of_a_slow_step() == set()


def test_a_short_job_says_nothing():
    lines = []
    with reporting("a short stage", lines.append):
        Progress("rows", 3).add(done=1)
    assert lines == [] and EVERY_S < 10


SLOW_STAGE = """
import time
from persuasion_rl.runtime import progress
from persuasion_rl.runtime.command import stage

def slow_stage() -> None:
    from tqdm import tqdm

    for _ in tqdm(range(4)):
        time.sleep(0.1)

progress.EVERY_S = 0.05
stage(slow_stage)
"""


def test_every_stage_has_a_line_and_no_library_has_a_bar():
    run = subprocess.run(
        [sys.executable, "-c", SLOW_STAGE], env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(run.stderr.splitlines()) == {"slow_stage: 0 s so far"}


LEFT = r"[\d.,]+ a second, about \d+ s left"


def test_the_stages_of_data_say_how_far_they_are(
    synthetic, tokenizer, write_corpus, tmp_path, said
):
    """By bytes while a corpus is read, then by conversations."""
    sides = {"output": tmp_path / "sides.csv", "duplicates": tmp_path / "duplicates.json"}
    assign_sides(corpora=[synthetic], seed=1, shares=Shares(8, 1, 1), **sides)
    assert re.fullmatch(rf"reading synthetic-changemyview: [\d.]+ of [\d.]+ MB, {LEFT}", said[9])
    assert any(
        re.fullmatch(rf"synthetic-changemyview: 30 of 60 conversations, {LEFT}", x) for x in said
    )
    assert re.fullmatch(rf"near-duplicates: 60 of 60 posts, {LEFT}", said[-1])
    del said[:]
    made = {"tokenizer": tokenizer, "budget": WIDE, "examples": tmp_path / "examples.jsonl"}
    made["counts"] = tmp_path / "counts.json"
    process_cmv(corpora=[synthetic], pairs=tmp_path / "pairs.jsonl", **made)
    assert said[-1].startswith("synthetic-changemyview: 60 of 60 conversations, ")
    dialogue = [turn(i, i % 2, f"What I say {i}.") for i in range(6)]
    process_p4g(corpus=write_corpus(dialogue, {"d1": {"meta": {}}}), seed=1, **made)
    assert re.fullmatch(r"rows of p4g: 2 rows, [\d.,]+ a second", said[-1])


def test_tables_of_verdicts_and_simulated_people_say_how_far_they_are(tmp_path, said):
    paths = {name: tmp_path / f"{name}.jsonl" for name in "abc"}
    for path in paths.values():
        write_jsonl(path, player_rows(["One reply.", "Another."]))
    verdicts = [
        {"prompt_id": f"p{i}", "conversation_id": f"c{i}", "player_1": x, "player_2": y, "verdict": "1"}
        for i in range(2) for x, y in ("ab", "ac", "bc")
    ]  # fmt: skip
    write_jsonl(tmp_path / "verdicts.jsonl", verdicts)
    common = {"verdicts": {"judge": tmp_path / "verdicts.jsonl"}, "draws": 9, "seed": 1}
    evaluate_win_rates(responses=paths, output=tmp_path / "win_rates.csv", **common)
    assert re.fullmatch(rf"win rates: 3 of 3 pairs of players, {LEFT}", said[-1])
    tables = {name: tmp_path / name for name in ("ranking", "declared", "power")}
    evaluate_ranking(players=list(paths), **tables, **common)
    assert re.fullmatch(rf"ranking: 1 of 1 judges, {LEFT}", said[-1])
    write_jsonl(tmp_path / "pairs.jsonl", [row(1, GOOD, BAD), row(2, BAD, GOOD)])
    simulate_annotators(
        responses=tmp_path / "pairs.jsonl", answers=tmp_path / "simulated.sqlite", judge="truth",
        annotators=3, noise=0.0, tie_margin=0.1, settings=SETTINGS, overlap=1.0, several=3, repeats=0.0,
    )  # fmt: skip
    assert re.fullmatch(rf"simulated annotators: 6 of 6 answers, {LEFT}", said[-1])


def test_tokens_are_counted_while_rows_are_tokenized(tiny_rows, tmp_path, said):
    tokenize(rows=tiny_rows.sft_train, base=tiny_rows.base, output=tmp_path / "rows.parquet")
    rows, tokens = re.fullmatch(rf"tokens of response: (\d+) of \1 rows, ([\d,]+) tokens, {LEFT}", said[-1]).groups()  # fmt: skip
    columns = Tokens.read(tmp_path / "rows.parquet").columns
    assert _int(rows) == len(columns["response_ids"])
    assert _int(tokens) == sum(map(len, columns["response_ids"]))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_are_counted_layer_by_layer_once_forward_and_back(checkpointing):
    """And no gradient is another for it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=100, use_cache=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.arange(24).view(2, 12)

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    before = gradients()
    reading, training = Progress("reading"), Progress("training")
    seen = []
    training_add = training.add

    def add(**counts):
        training_add(**counts)
        seen.append(training.tokens)

    training.add = add
    follow(model, reading, training)
    assert all(map(torch.equal, before, gradients()))
    assert training.tokens == pytest.approx(24) and len(seen) >= 8
    assert reading.tokens == 0
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert reading.tokens == pytest.approx(24)


@pytest.mark.slow
def test_a_training_and_a_sampling_say_how_far_they_are(
    tiny_rows, tiny_sft, tmp_path, monkeypatch, capfd
):
    from persuasion_rl.sampling.engine import SamplingSettings
    from persuasion_rl.sampling.responses import sample_responses
    from tiny_trainings import train_sft

    monkeypatch.setattr(progress, "EVERY_S", 0.005)
    lines = []
    with reporting("train_sft", lines.append):
        train_sft(tiny_rows, tmp_path / "sft")
    log = "\n".join(lines)
    assert len(re.findall(r"training: [\d,]+ of about [\d,]+ tokens, [\d,]+ a second, about \d+ s left", log)) > 5  # fmt: skip
    reading = re.findall(r"learning: \d of (\d) batches, ([\d,]+) of about ([\d,]+) tokens", log)
    assert reading and all(_int(done) <= _int(of) for _, done, of in reading)
    assert "/8 [" not in "".join(capfd.readouterr())  # no bar of the trainer
    settings = SamplingSettings(
        model="sft", temperature=0.7, top_p=0.9, max_new_tokens=8, seed=1, base=tiny_rows.base,
        lineage=[tiny_sft], device="cpu",
    )  # fmt: skip
    with reporting("generate_responses", lines.append):
        sample_responses(settings, tmp_path / "state", {"p1": "Claim: one", "p2": "Claim: two"})
    assert any(
        re.match(r"sampling: 0 of 2 samples, [\d,]+ of about \d+ tokens, [\d,]+ a second", line)
        for line in lines
    )


def _int(number: str) -> int:
    return int(number.replace(",", ""))
