"""Labels from answers: simulated annotators answer as people do, answers find their texts, the majority decides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persuasion_rl.annotation.agreement import describe_answers, report_agreement
from persuasion_rl.annotation.plan import Answer, pair_id
from persuasion_rl.annotation.store import AnswerStore, read_answers
from persuasion_rl.data.synthetic.grammar import truth
from persuasion_rl.files import UserError, read_json, read_jsonl, write_jsonl
from persuasion_rl.preferences.export_human_labels import export_human_labels, majority
from persuasion_rl.preferences.simulate_annotators import simulate_annotators
from persuasion_rl.statistics.agreement import kappa
from persuasion_rl.statistics.intervals import Resamples
from response_pairs import BAD, FAIR, GOOD, POST, SETTINGS, many, row


@pytest.fixture
def export(tmp_path):
    """A function that joins rows with the answers in the store, and returns the labels."""

    def run(rows, answers=(), min_labels=1, store="answers.sqlite"):
        write_jsonl(tmp_path / "responses.jsonl", rows)
        with AnswerStore(tmp_path / store) as file:
            for given in answers:
                assert file.add(given)
        export_human_labels(
            responses=tmp_path / "responses.jsonl", answers=tmp_path / store, labels=tmp_path / "labels.jsonl",
            min_labels=min_labels, study="demo", labeler="people",
        )  # fmt: skip
        return list(read_jsonl(tmp_path / "labels.jsonl"))

    return run


def said(given, answer, annotator="anna", left=1, kind="first", **further):
    return Answer(annotator, pair_id(given), kind, left, answer, **further)


@pytest.fixture
def simulate(tmp_path, export):
    """A function that lets simulated annotators answer rows, and returns the labels."""

    def run(rows, **changes):
        write_jsonl(tmp_path / "responses.jsonl", rows)
        arguments = dict(judge="truth", annotators=3, noise=0.3, tie_margin=0.1, settings=SETTINGS,
                         overlap=1.0, several=3, repeats=0.0) | changes  # fmt: skip
        simulate_annotators(
            responses=tmp_path / "responses.jsonl",
            answers=tmp_path / "simulated.sqlite",
            **arguments,
        )
        return export(rows, store="simulated.sqlite")

    return run


def test_annotators_without_noise_say_what_the_judge_sees(simulate):
    labels = simulate([row(1, GOOD, BAD), row(2, BAD, GOOD), row(3, BAD, FAIR)], noise=0.0)
    assert [found["verdict"] for found in labels] == ["1", "2", "tie"]
    assert truth(POST, FAIR) - truth(POST, BAD) < 0.1, "within the annotators' tie margin"
    for found in labels:
        names = {vote["labeler"] for vote in found["votes"]}
        assert names == {"simulated_1", "simulated_2", "simulated_3"}
        assert {vote["verdict"] for vote in found["votes"]} == {found["verdict"]}


def test_annotators_err_more_with_more_noise_and_agree_with_themselves(simulate):
    rows = [row(i, GOOD, BAD) | {"prompt": f"{POST} {i}."} for i in range(200)]

    def right(**settings):
        return sum(found["verdict"] == "1" for found in simulate(rows, **settings))

    calm, noisy = right(noise=0.1), right(noise=1.0)
    assert calm > 187 and 67 < noisy < 167
    assert simulate(rows) == simulate(rows)
    assert right(annotators=1, several=2, noise=0.5) < right(annotators=15, several=15, noise=0.5)
    votes = [{v["labeler"]: v["verdict"] for v in f["votes"]} for f in simulate(rows, noise=1.0)]
    assert len({tuple(sorted(v.items())) for v in votes}) > 10, "annotators have noise of their own"


def test_the_store_of_simulated_annotators_is_one_whole_file(simulate, tmp_path):
    simulate(many(10))
    simulate(many(12))
    assert len(read_answers(tmp_path / "simulated.sqlite")) == 36
    assert [p.name for p in tmp_path.glob("simulated*")] == ["simulated.sqlite"]


@pytest.mark.parametrize(
    "given, verdict",
    [
        ([], "none"),
        (["1"], "1"),
        (["2", "2", "1"], "2"),
        (["1", "2"], "tie"),
        (["1", "2", "tie"], "tie"),
        (["1", "1", "2", "2"], "tie"),
        (["tie", "tie", "1"], "tie"),
        (["1", "1", "2", "tie"], "tie"),
        (["both_bad"], "none"),
        (["both_bad", "both_bad", "1"], "none"),
        (["both_bad", "1"], "tie"),
        (["both_bad", "1", "1"], "1"),
    ],
)
def test_the_majority_decides(given, verdict):
    assert majority(given) == verdict


def test_answers_find_their_texts_wherever_they_stood(export):
    rows = [row(1, GOOD, BAD), row(2, FAIR, BAD), row(3, FAIR, GOOD)]
    answers = [
        said(rows[2], "left", left=2, confidence=3, reason="It answers."),
        said(rows[0], "left"),
        said(rows[0], "right", "ben", left=2),
        said(rows[0], "right", "carl"),
    ]
    labels = export(rows, answers)
    assert [(found["metadata"]["prompt_id"], found["verdict"]) for found in labels] == [
        ("p1", "1"),
        ("p3", "2"),
    ]
    assert labels[0]["labeler"] == "people"
    assert [(v["labeler"], v["verdict"], v["order"]) for v in labels[0]["votes"]] == [
        ("anna", "1", "12"),
        ("ben", "1", "21"),
        ("carl", "2", "12"),
    ]
    (vote,) = labels[1]["votes"]
    assert (vote["answer"], vote["confidence"], vote["reason"]) == ("left", 3, "It answers.")


def test_skips_flags_both_bad_repeats_and_practice_become_what_is_written_down(export, tmp_path):
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(5)]
    answers = [
        said(rows[0], "skip"), said(rows[0], "left", "ben"),
        said(rows[1], "left"), said(rows[1], "flag", "ben"),
        said(rows[2], "both_bad"),
        said(rows[3], "skip"),
        said(rows[4], "left"), said(rows[4], "right", left=2, kind="repeat"),
        said(row(9, GOOD, BAD), "left", kind="practice"),
    ]  # fmt: skip
    labels = export(rows, answers)
    assert [(found["metadata"]["prompt_id"], found["verdict"]) for found in labels] == [
        ("p0", "1"), ("p1", "none"), ("p2", "none"), ("p4", "1"),
    ]  # fmt: skip
    assert [[vote["answer"] for vote in found["votes"]] for found in labels] == [
        ["left"], ["left", "flag"], ["both_bad"], ["left"],
    ]  # fmt: skip
    report_agreement(
        responses=tmp_path / "responses.jsonl", answers=tmp_path / "answers.sqlite", output=tmp_path / "report.json", seed=1
    )  # fmt: skip
    report = read_json(tmp_path / "report.json")
    assert (report["pairs"], report["answered"], report["flagged"]) == (5, 3, 1)
    assert report["annotators"]["anna"] == {
        "answers": 6,
        "skips": 2,
        "flags": 0,
        "median_seconds": None,
    }
    assert report["consistency"]["value"] == 1.0 and report["consistency"]["rows"] == 1


def test_an_answer_never_attaches_to_another_text(export):
    """Responses that were sampled again, or that changed places, are other pairs."""
    old = row(1, GOOD, BAD)
    with pytest.raises(UserError, match="0 of 1 pairs have a verdict"):
        export([row(1, GOOD, FAIR)], [said(old, "left")])
    for new in (row(1, BAD, GOOD), old | {"prompt": POST + " "}):
        with pytest.raises(UserError, match="0 of 1 pairs have a verdict"):
            export([new])


def test_too_few_answers_stop_with_the_count_and_what_to_run(export, tmp_path):
    rows = [row(1, GOOD, BAD), row(2, GOOD, FAIR), row(3, FAIR, BAD)]
    with pytest.raises(UserError) as raised:
        export(rows, [said(rows[0], "left"), said(rows[1], "skip")], min_labels=2)
    message = str(raised.value)
    assert "1 of 3 pairs have a verdict and 2 are needed" in message and "\n" not in message
    assert "persuasion-rl annotate --study demo" in message
    assert "`snakemake unattended --cores all --configfile config/demo.yaml`" in message
    assert "; 1 only skipped" in message
    assert not (tmp_path / "labels.jsonl").exists()


def test_flagged_pairs_are_not_waited_for(export):
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(5)]
    flagged = [said(rows[0], "flag"), *(said(one, "left") for one in rows[1:])]
    assert len(export([*rows, rows[4]], flagged, min_labels=200)) == 6, (
        "a pair that is there twice counts once"
    )
    with pytest.raises(
        UserError, match="3 of 5 pairs have a verdict and 4 are needed .*; 1 flagged as unsafe"
    ):
        export(rows, flagged[:4], min_labels=200, store="fewer.sqlite")
    with pytest.raises(UserError, match="all 5 pairs were flagged .* nothing is left to answer"):
        export(rows, [said(one, "flag") for one in rows], store="none.sqlite")


def test_agreement_is_measured_where_people_saw_the_same_pair():
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(40)]
    agreeing = [said(r, "left", name) for r in rows for name in ("anna", "ben")]
    found = describe_answers(rows, agreeing, seed=1)
    assert found["agreement"]["value"] == 1.0 and found["agreement"]["rows"] == 40
    mixed = [said(r, "left" if i % 2 else "right", "anna") for i, r in enumerate(rows)]
    mixed += [said(r, "left" if i % 4 < 2 else "right", "ben") for i, r in enumerate(rows)]
    found = describe_answers(rows, mixed, seed=1)
    assert found["agreement"]["value"] == 0.5
    assert found["kappa"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert found["alpha"]["value"] == pytest.approx(1 / 80, abs=1e-9)
    for measure in ("agreement", "kappa", "alpha"):
        assert found[measure]["low"] < found[measure]["value"] < found[measure]["high"]
    alone = describe_answers(rows, mixed[:40], seed=1)
    assert alone["agreement"] is alone["kappa"] is alone["alpha"] is alone["consistency"] is None


def test_kappa_of_two_people_is_cohens():
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(60)]
    one = [("left", "right", "tie")[i % 3] for i in range(60)]
    other = [("left", "right", "tie")[(i + (i % 5 == 0)) % 3] if i < 50 else "left" for i in range(60)]  # fmt: skip
    answers = [said(r, a) for r, a in zip(rows, one, strict=True)]
    answers += [said(r, a, "ben") for r, a in zip(rows, other, strict=True)]
    found = describe_answers(rows, answers, seed=1)["kappa"]
    wanted = kappa(one, other, Resamples([r["metadata"]["conversation_id"] for r in rows], 2000, 1))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((wanted.value, wanted.low, wanted.high))  # fmt: skip


@settings(max_examples=40)
@given(
    votes=st.lists(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["left", "right", "tie"]),
                                   min_size=2, max_size=4), min_size=10, max_size=25),
    names=st.permutations("abcde"),
)  # fmt: skip
def test_agreement_does_not_depend_on_what_annotators_are_called(votes, names):
    """Nor on who comes first; it is 1 where all agree, and lies in [-1, 1]."""
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(len(votes))]
    called = dict(zip("abcde", names, strict=True))

    def measured(called):
        answers = [
            said(one, answer, called[name])
            for one, own in zip(rows, votes, strict=True)
            for name, answer in sorted(own.items(), key=lambda vote: called[vote[0]])
        ]
        found = describe_answers(rows, answers, seed=1)
        return [found[name][part] for name in ("agreement", "kappa", "alpha") for part in ("value", "low", "high")]  # fmt: skip

    first = measured({name: name for name in "abcde"})
    assert measured(called) == pytest.approx(first, abs=1e-9)
    assert all(-1 <= value <= 1 for value in first)


def test_repeats_of_pairs_that_are_in_the_pool_no_more_are_not_counted():
    rows, gone = [row(1, GOOD, BAD)], row(2, FAIR, BAD)
    answers = [said(gone, "left"), said(gone, "right", kind="repeat")]
    assert describe_answers(rows, answers, seed=1)["consistency"] is None
    answers += [said(rows[0], "left"), said(rows[0], "right", left=2, kind="repeat")]
    found = describe_answers(rows, answers, seed=1)["consistency"]
    assert (found["value"], found["rows"]) == (1.0, 1)


def test_exporting_is_a_command_whose_refusal_is_one_line(tmp_path, command_line):
    write_jsonl(tmp_path / "responses.jsonl", [row(1, GOOD, BAD)])
    wrong = command_line(
        "preferences.export_human_labels", "--responses", tmp_path / "responses.jsonl",
        "--answers", tmp_path / "nothing.sqlite", "--labels", tmp_path / "x.jsonl", "--min_labels", 1,
        "--study", "demo", "--labeler", "people",
    )  # fmt: skip
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: 0 of 1 pairs")
    assert wrong.stderr.count("\n") == 1 and not (tmp_path / "x.jsonl").exists()
    assert not (tmp_path / "nothing.sqlite").exists()
