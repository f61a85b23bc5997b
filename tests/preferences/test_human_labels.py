"""Labels from answers: simulated annotators answer as people do, answers match their texts, the majority decides."""

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
            for answer in answers:
                assert file.add(answer)
        export_human_labels(
            responses=tmp_path / "responses.jsonl", answers=tmp_path / store, labels=tmp_path / "labels.jsonl",
            min_labels=min_labels, study="demo", labeler="people",
        )  # fmt: skip
        return list(read_jsonl(tmp_path / "labels.jsonl"))

    return run


def answer_to(pair, answer, annotator="anna", left_response=1, kind="first", **further):
    return Answer(annotator, pair_id(pair), kind, left_response, answer, **further)


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
    assert [label["verdict"] for label in labels] == ["1", "2", "tie"]
    assert truth(POST, FAIR) - truth(POST, BAD) < 0.1, "within the annotators' tie margin"
    for label in labels:
        names = {vote["labeler"] for vote in label["votes"]}
        assert names == {"simulated_1", "simulated_2", "simulated_3"}
        assert {vote["verdict"] for vote in label["votes"]} == {label["verdict"]}


def test_annotators_err_more_with_more_noise_and_agree_with_themselves(simulate):
    rows = [row(i, GOOD, BAD) | {"prompt": f"{POST} {i}."} for i in range(200)]

    def count_correct(**settings):
        return sum(label["verdict"] == "1" for label in simulate(rows, **settings))

    calm, noisy = count_correct(noise=0.1), count_correct(noise=1.0)
    assert calm > 187 and 67 < noisy < 167
    assert simulate(rows) == simulate(rows)
    assert count_correct(annotators=1, several=2, noise=0.5) < count_correct(
        annotators=15, several=15, noise=0.5
    )
    votes = [{v["labeler"]: v["verdict"] for v in f["votes"]} for f in simulate(rows, noise=1.0)]
    assert len({tuple(sorted(v.items())) for v in votes}) > 10, "annotators have noise of their own"


def test_the_store_of_simulated_annotators_is_one_whole_file(simulate, tmp_path):
    simulate(many(10))
    simulate(many(12))
    assert len(read_answers(tmp_path / "simulated.sqlite")) == 36
    assert [p.name for p in tmp_path.glob("simulated*")] == ["simulated.sqlite"]


@pytest.mark.parametrize(
    "answers, verdict",
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
def test_the_majority_decides(answers, verdict):
    assert majority(answers) == verdict


def test_answers_match_their_texts_on_either_side(export):
    rows = [row(1, GOOD, BAD), row(2, FAIR, BAD), row(3, FAIR, GOOD)]
    answers = [
        answer_to(rows[2], "left", left_response=2, confidence=3, reason="It answers."),
        answer_to(rows[0], "left"),
        answer_to(rows[0], "right", "ben", left_response=2),
        answer_to(rows[0], "right", "carl"),
    ]
    labels = export(rows, answers)
    assert [(label["metadata"]["prompt_id"], label["verdict"]) for label in labels] == [
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


def test_skips_flags_both_bad_repeats_and_practice_count_as_documented(export, tmp_path):
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(5)]
    answers = [
        answer_to(rows[0], "skip"), answer_to(rows[0], "left", "ben"),
        answer_to(rows[1], "left"), answer_to(rows[1], "flag", "ben"),
        answer_to(rows[2], "both_bad"),
        answer_to(rows[3], "skip"),
        answer_to(rows[4], "left"), answer_to(rows[4], "right", left_response=2, kind="repeat"),
        answer_to(row(9, GOOD, BAD), "left", kind="practice"),
    ]  # fmt: skip
    labels = export(rows, answers)
    assert [(label["metadata"]["prompt_id"], label["verdict"]) for label in labels] == [
        ("p0", "1"), ("p1", "none"), ("p2", "none"), ("p4", "1"),
    ]  # fmt: skip
    assert [[vote["answer"] for vote in label["votes"]] for label in labels] == [
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
        export([row(1, GOOD, FAIR)], [answer_to(old, "left")])
    for new in (row(1, BAD, GOOD), old | {"prompt": POST + " "}):
        with pytest.raises(UserError, match="0 of 1 pairs have a verdict"):
            export([new])


def test_too_few_answers_stop_with_the_count_and_what_to_run(export, tmp_path):
    rows = [row(1, GOOD, BAD), row(2, GOOD, FAIR), row(3, FAIR, BAD)]
    with pytest.raises(UserError) as raised:
        export(rows, [answer_to(rows[0], "left"), answer_to(rows[1], "skip")], min_labels=2)
    message = str(raised.value)
    assert "1 of 3 pairs have a verdict and 2 are needed" in message and "\n" not in message
    assert "persuasion-rl annotate --study demo" in message
    assert "`snakemake unattended --cores all --configfile config/demo.yaml`" in message
    assert "; 1 only skipped" in message
    assert not (tmp_path / "labels.jsonl").exists()


def test_flagged_pairs_are_not_waited_for(export):
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(5)]
    flagged = [answer_to(rows[0], "flag"), *(answer_to(one, "left") for one in rows[1:])]
    assert len(export([*rows, rows[4]], flagged, min_labels=200)) == 6, (
        "a pair that is there twice counts once"
    )
    with pytest.raises(
        UserError, match="3 of 5 pairs have a verdict and 4 are needed .*; 1 flagged as unsafe"
    ):
        export(rows, flagged[:4], min_labels=200, store="fewer.sqlite")
    with pytest.raises(UserError, match="all 5 pairs were flagged .* nothing is left to answer"):
        export(rows, [answer_to(one, "flag") for one in rows], store="none.sqlite")


def test_agreement_is_measured_where_people_saw_the_same_pair():
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(40)]
    agreeing = [answer_to(r, "left", name) for r in rows for name in ("anna", "ben")]
    report = describe_answers(rows, agreeing, seed=1)
    assert report["agreement"]["value"] == 1.0 and report["agreement"]["rows"] == 40
    mixed = [answer_to(r, "left" if i % 2 else "right", "anna") for i, r in enumerate(rows)]
    mixed += [answer_to(r, "left" if i % 4 < 2 else "right", "ben") for i, r in enumerate(rows)]
    report = describe_answers(rows, mixed, seed=1)
    assert report["agreement"]["value"] == 0.5
    assert report["kappa"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert report["alpha"]["value"] == pytest.approx(1 / 80, abs=1e-9)
    for measure in ("agreement", "kappa", "alpha"):
        assert report[measure]["low"] < report[measure]["value"] < report[measure]["high"]
    alone = describe_answers(rows, mixed[:40], seed=1)
    assert alone["agreement"] is alone["kappa"] is alone["alpha"] is alone["consistency"] is None


def test_kappa_of_two_people_is_cohens():
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(60)]
    one = [("left", "right", "tie")[i % 3] for i in range(60)]
    other = [("left", "right", "tie")[(i + (i % 5 == 0)) % 3] if i < 50 else "left" for i in range(60)]  # fmt: skip
    answers = [answer_to(r, a) for r, a in zip(rows, one, strict=True)]
    answers += [answer_to(r, a, "ben") for r, a in zip(rows, other, strict=True)]
    actual = describe_answers(rows, answers, seed=1)["kappa"]
    expected = kappa(
        one, other, Resamples([r["metadata"]["conversation_id"] for r in rows], 2000, 1)
    )
    assert (actual["value"], actual["low"], actual["high"]) == pytest.approx((expected.value, expected.low, expected.high))  # fmt: skip


@settings(max_examples=40)
@given(
    votes=st.lists(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["left", "right", "tie"]),
                                   min_size=2, max_size=4), min_size=10, max_size=25),
    names=st.permutations("abcde"),
)  # fmt: skip
def test_agreement_does_not_depend_on_what_annotators_are_called(votes, names):
    """Nor on who comes first; it is 1 where all agree, and lies in [-1, 1]."""
    rows = [row(i, GOOD, f"{BAD} {i}") for i in range(len(votes))]
    new_names = dict(zip("abcde", names, strict=True))

    def measures(name_of):
        answers = [
            answer_to(one, answer, name_of[name])
            for one, own in zip(rows, votes, strict=True)
            for name, answer in sorted(own.items(), key=lambda vote: name_of[vote[0]])
        ]
        report = describe_answers(rows, answers, seed=1)
        return [report[name][part] for name in ("agreement", "kappa", "alpha") for part in ("value", "low", "high")]  # fmt: skip

    first = measures({name: name for name in "abcde"})
    assert measures(new_names) == pytest.approx(first, abs=1e-9)
    assert all(-1 <= value <= 1 for value in first)


def test_repeats_of_pairs_that_are_in_the_pool_no_more_are_not_counted():
    rows, gone = [row(1, GOOD, BAD)], row(2, FAIR, BAD)
    answers = [answer_to(gone, "left"), answer_to(gone, "right", kind="repeat")]
    assert describe_answers(rows, answers, seed=1)["consistency"] is None
    answers += [
        answer_to(rows[0], "left"),
        answer_to(rows[0], "right", left_response=2, kind="repeat"),
    ]
    consistency = describe_answers(rows, answers, seed=1)["consistency"]
    assert (consistency["value"], consistency["rows"]) == (1.0, 1)


def test_exporting_is_a_command_whose_refusal_is_one_line(tmp_path, command_line):
    write_jsonl(tmp_path / "responses.jsonl", [row(1, GOOD, BAD)])
    result = command_line(
        "preferences.export_human_labels", "--responses", tmp_path / "responses.jsonl",
        "--answers", tmp_path / "nothing.sqlite", "--labels", tmp_path / "x.jsonl", "--min_labels", 1,
        "--study", "demo", "--labeler", "people",
    )  # fmt: skip
    assert result.returncode == 1 and result.stderr.startswith("error: 0 of 1 pairs")
    assert result.stderr.count("\n") == 1 and not (tmp_path / "x.jsonl").exists()
    assert not (tmp_path / "nothing.sqlite").exists()
