"""Files of a study: inheritance, and the message for a file that cannot be read, in Snakemake too."""

import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError
from persuasion_rl.study.config import Config
from persuasion_rl.study.loading import _merged, load_config, load_config_file
from persuasion_rl.study.parsing import read_config_file, value_at
from persuasion_rl.study.section import keys_of, takes_null
from running import ROOT, copy_project, snakemake

STUDY = {
    "study": "small",
    "models": {
        "base": {"source": "some/model"},
        "sft": {"parent": "base", "method": "sft"},
        "rlhf": {"parent": "sft", "method": "dpo", "pool": "human"},
    },
    "evaluation": {"players": ["base", "sft", "rlhf", "human"]},
}
BROKEN = {
    "unclosed": (b"study: a\ndata: [1\nseed: 2\n", ": line 3: not valid YAML: while parsing a flow sequence (line 2), "),
    "tab": (b"study: a\n\tseed: 1\n", ": line 2: not valid YAML: "),
    "colon": (b"study: a: b\n", ": line 1: not valid YAML: mapping values are not allowed"),
    "twice": (b"study: a\nseed: 1\nseed: 2\n", ": line 3: not valid YAML: the key 'seed' stands there twice, first in line 2"),
    "twice below": (b"a:\n  b: {c: 1, d: 2,\n    c: 3}\n", ": line 3: not valid YAML: the key 'c' stands there twice, first in line 2"),
    "no date": (b"a: 1\nb: 2024-13-45\n", ": line 2: not valid YAML: '2024-13-45': "),
    "control": (b"a: 1\nb: \x07\n", ": line 2: not valid YAML: control characters"),
    "latin-1": (b"a: 1\nb: \xe9\n", ": line 2: not UTF-8"),
    "a list as a key": (b"? [1, 2]\n: 3\n", ": line 1: not valid YAML: "),
    "documents": (b"a: 1\n---\nb: 2\n", ": line 2: not valid YAML: "),
    "empty": (b"", ": holds nothing where keys are expected: a study begins with `study: NAME`"),
    "list": (b"- a\n", ": holds a list where keys are expected"),
    "word": (b"a\n", ": holds a single value where keys are expected"),
}  # fmt: skip


@pytest.fixture
def study_file(tmp_path):
    def write(name: str, **study) -> Path:
        (tmp_path / name).write_text(yaml.safe_dump(study))
        return tmp_path / name

    return write


def test_a_study_lies_over_the_one_that_it_extends(study_file):
    study_file("low.yaml", **STUDY, seed=3, data={"max_tokens": 500, "max_seq_length": 900})
    study_file(
        "mid.yaml", extends="low.yaml", data={"max_tokens": 600}, recipes={"sft": {"lora_r": 4}}
    )
    config = load_config_file(
        study_file(
            "top.yaml", extends="mid.yaml", study="top", evaluation={"players": ["sft", "rlhf"]},
            models={"sft": {"recipe": {"lora_r": 2}}}, data={"min_tokens": 7},
        )
    )  # fmt: skip
    assert config.study == "top" and config.seed == 3
    assert (config.data.min_tokens, config.data.max_tokens, config.data.max_seq_length) == (
        7,
        600,
        900,
    )
    assert config.evaluation.players == ["sft", "rlhf"], "lists are replaced, not joined"
    assert config.recipe_of("sft")["lora_r"] == 2
    assert config.models["rlhf"].resolved() == STUDY["models"]["rlhf"]
    assert "extends" not in config.resolved()


@pytest.mark.parametrize("named", [{}, {"study": None}])
def test_a_study_that_extends_another_has_a_name_of_its_own(study_file, named):
    """Else it would overwrite the results of the other one. The same name may be set explicitly."""
    study_file("low.yaml", **STUDY)
    with pytest.raises(
        UserError, match=r"study: a file that extends .*low\.yaml .* add `study: NAME`$"
    ):
        load_config_file(study_file("top.yaml", extends="low.yaml", seed=2, **named))
    same = study_file("top.yaml", extends="low.yaml", study="small", seed=2)
    assert load_config_file(same).study == "small"


@pytest.mark.parametrize(
    "key, below, default",
    [
        ("seed", 3, 1),
        ("data.max_tokens", 500, 1024),
        ("data", {"max_tokens": 500}, {}),
        ("models.sft.seed", 3, None),
        ("models.sft.recipe", {"lora_r": 4}, None),
        ("models.base.revision", "abc", None),
        ("models.sft_2", {"parent": "base", "method": "sft"}, None),
        ("recipes.sft.eval_strategy", "steps", "epoch"),
        ("evaluation.other_players.o", {"model": "sft"}, None),
        ("llm.model", "m", None),
    ],
)
def test_null_takes_an_inherited_key_back(study_file, key, below, default):
    def nested(value):
        for part in reversed(key.split(".")):
            value = {part: value}
        return value

    low = study_file("low.yaml", **_merged(STUDY, nested(below)))
    top = {"extends": low.name, "study": "top"} | nested(None)
    resolved = load_config_file(study_file("top.yaml", **top)).resolved()
    assert resolved == load_config(_merged(STUDY, {"study": "top"})).resolved()
    assert key == "data" or value_at(resolved, key.split(".")) == default


@pytest.mark.parametrize(
    "key", ["models.base.revision", "models.sft.seed", "recipes.sft.lora_dropout"]
)
def test_null_of_a_key_that_may_be_missing_is_none_where_nothing_is_inherited(key):
    """models.base: {source: /a/folder, revision: null} is right, whatever is inherited. Other keys have a default."""
    study = deepcopy(STUDY)
    *above, last = key.split(".")
    part = study
    for name in above:
        part = part.setdefault(name, {})
    part[last] = None
    if key.startswith("models"):
        assert load_config(study) == load_config(STUDY)
    else:
        with pytest.raises(UserError, match=f"^{key}: None must be a number"):
            load_config(study)


def test_null_stays_where_it_is_a_value_and_takes_no_key_that_is_not_there(study_file):
    study_file("low.yaml", **STUDY, llm={"temperature": 1})
    top = {"extends": "low.yaml", "study": "top"}
    assert (
        load_config_file(study_file("a.yaml", **top, llm={"temperature": None})).llm.temperature
        is None
    )
    fields = dict(keys_of(Config))
    takers = {path for path in fields if takes_null(Config, path.split("."))}
    others = {path for path in takers if fields[path].default is not None}
    assert others == {"llm.temperature"}, "of all others null is the default"
    with pytest.raises(UserError, match="models.rliaf: None must be an object"):
        load_config_file(study_file("b.yaml", **top, models={"rliaf": None}))


@pytest.mark.parametrize(
    "place, below, above, key",
    [
        ("models.base", {"source": "a/b", "revision": "abc"}, {"source": "c/d"}, "revision"),
        ("models.base", {"source": "a/b", "revision": "abc"}, {"source": "standin"}, "revision"),
        ("evaluation.other_players.o", {"source": "a/b", "revision": "abc"}, {"source": "c/d"}, "revision"),
        ("llm", {"model": "a", "prices": {"input": 1, "output": 2}}, {"model": "b"}, "prices"),
    ],
)  # fmt: skip
def test_what_belongs_to_a_source_is_not_inherited_with_another(
    study_file, place, below, above, key
):
    def nested(value):
        for part in reversed(place.split(".")):
            value = {part: value}
        return value

    base = (
        _merged(STUDY, {"evaluation": {"players": ["base", "sft", "o"]}})
        if "players" in place
        else STUDY
    )
    study_file("low.yaml", **_merged(base, nested(below)))
    study_file("mid.yaml", extends="low.yaml", seed=2)
    top = {"extends": "mid.yaml", "study": "top"}
    with pytest.raises(UserError) as error:
        load_config_file(study_file("top.yaml", **top, **nested(above)))
    message = str(error.value)
    assert (
        f": {place}.{key}: " in message
        and "low.yaml; beside " in message
        and "or null for " in message
    )
    for changes in (
        {key: None},
        {} if key == "prices" or "standin" in above.values() else {key: "f00"},
    ):
        if changes:
            assert load_config_file(study_file("top.yaml", **top, **nested(above | changes)))
    assert load_config_file(
        study_file("top.yaml", **top, **nested({name: below[name] for name in above}))
    )


def test_a_mistake_in_a_file_that_is_extended_is_told_with_that_file_and_line(study_file, tmp_path):
    low = tmp_path / "low.yaml"
    for wrong, expected in (
        ("data:\n  max_tokens: many\n", "data.max_tokens: 'many' must be an integer"),
        ("data: {min_tokens: 9,\n max_tokens: 5}\n", "data.min_tokens: 9 must be below max_tokens 5"),
        ("data:\n  max_tokns: 3\n", "data.max_tokns: unknown key"),
        ("evaluation:\n  judges: [length, delta, gpt]\n", "evaluation.judges.2: 'gpt' must be one of"),
        ("models:\n  sft: {pool: ai}\n", "models.sft.pool: an sft model learns"),
        ("llm:\n  api_key: 1\n", "llm.api_key: looks like a key"),
    ):  # fmt: skip
        low.write_text("# A study\nstudy: low\n" + wrong)
        top = study_file("top.yaml", **_merged(STUDY, {"extends": "low.yaml", "study": "top"}))
        with pytest.raises(UserError) as error:
            load_config_file(top)
        message = str(error.value)
        line = 3 if wrong.startswith("data: {") else 4
        assert message.startswith(f"{top}: {expected}") and message.endswith(
            f" (in {low}, line {line})"
        ), message
    low.write_text("study: low\nseed: 1\n")
    with pytest.raises(UserError, match=r"seed: 'x' must be an integer$"):
        load_config_file(
            study_file("top.yaml", extends="low.yaml", **_merged(STUDY, {"seed": "x"}))
        )


def test_the_example_of_variants_adds_two_seeds_and_a_beta():
    models = load_config_file(ROOT / "config/seeds-and-betas.yaml").models
    assert {name: models[name].seed for name in ("sft", "sft_s2", "sft_s3")} == {
        "sft": None, "sft_s2": 2, "sft_s3": 3,
    }  # fmt: skip
    assert models["rlaif_b5"].resolved() == models["rlaif"].resolved() | {"recipe": {"beta": 0.5}}


def test_a_study_that_stands_alone_gets_no_key_of_another(study_file):
    study_file("config.yaml", **STUDY | {"study": "cmv"}, seed=77, sampling={"top_p": 0.5})
    assert load_config_file(study_file("alone.yaml", **STUDY)) == load_config(deepcopy(STUDY))


@pytest.mark.parametrize(
    "name, cycle",
    [("self.yaml", "self.yaml -> self.yaml"), ("low.yaml", "self.yaml -> low.yaml -> self.yaml")],
)
def test_studies_that_extend_each_other_are_refused_with_the_cycle(study_file, name, cycle):
    study_file("low.yaml", **STUDY, extends="self.yaml")
    file = study_file("self.yaml", **STUDY, extends=name)
    with pytest.raises(UserError) as error:
        load_config_file(file)
    assert str(error.value).endswith(f"extends itself ({cycle})")


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_is_one_line_with_the_lines_number(
    study_file, tmp_path, content, message
):
    file = tmp_path / "low.yaml"
    file.write_bytes(content)
    errors = []
    for load, path in (
        (read_config_file, file),
        (load_config_file, file),
        (load_config_file, study_file("top.yaml", extends="low.yaml", study="x")),
    ):
        with pytest.raises(UserError) as error:
            load(path)
        errors.append(str(error.value))
    assert errors[0].startswith(f"{file}{message}") and "\n" not in errors[0]
    assert errors[1:] == [errors[0], f"{tmp_path / 'top.yaml'}: extends: {errors[0]}"]


def test_a_file_that_is_not_there_or_a_folder_is_one_line(study_file, tmp_path):
    for name, message in (
        ("nowhere.yaml", "does not exist"),
        (".", "cannot be read: Is a directory"),
    ):
        with pytest.raises(UserError, match=f"{message}$"):
            read_config_file(tmp_path / name)
        with pytest.raises(UserError, match=f"^extends: .*: {message}$"):
            load_config({"extends": name}, tmp_path / "x.yaml")


@pytest.mark.parametrize("name", [3, ["a.yaml"], {"a": 1}])
def test_only_a_name_of_a_file_can_be_extended(name):
    with pytest.raises(UserError, match="^extends: .* must be the name of a file$"):
        load_config({"extends": name})


def test_a_merge_may_set_a_key_again(tmp_path):
    file = tmp_path / "merge.yaml"
    file.write_text("a: &a {b: {<<: {c: 1}, c: 2}}\nd: {<<: *a, b: 3}\n")
    assert read_config_file(file) == {"a": {"b": {"c": 2}}, "d": {"b": 3}}


@given(
    st.binary(max_size=40)
    | st.text("ab:[]{}&*!|>-?,#'\"\n\t 1\x00\ud7ff", max_size=40).map(str.encode)
)
def test_any_bytes_are_keys_or_one_line(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    try:
        assert isinstance(read_config_file(file), dict)
    except UserError as error:
        assert str(error).startswith(f"{file}: ") and len(str(error).splitlines()) == 1, str(error)


def test_reading_a_study_is_light():
    script = "import sys, persuasion_rl.study.loading; print({'torch', 'numpy', 'pandas', 'jsonschema'} & {*sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "set()\n", run.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("kind", ["unclosed", "twice", "latin-1", "list", None])
def test_snakemake_reports_a_broken_config_in_one_line(checkout, kind):
    file = checkout / f"config/{kind}.yaml"
    if kind:
        file.write_bytes(BROKEN[kind][0])
    run = snakemake(
        "-n", "--configfile", file, root=checkout, PYTHONPATH=str(checkout / "workflow")
    )
    assert run.returncode == 1
    *before, last = run.stdout.splitlines()
    assert last.startswith(f"{file}{BROKEN[kind][1] if kind else ': does not exist'}")
    assert all(line.startswith("Using workflow specific profile") for line in before)


def test_snakemake_reports_a_broken_default_config_in_one_line(checkout):
    file = checkout / "config/config.yaml"
    content = file.read_bytes()
    file.write_bytes(b"study: cmv\ndata: ]\n")
    run = snakemake("-n", root=checkout, PYTHONPATH=str(checkout / "workflow"))
    file.write_bytes(content)
    assert run.stdout.splitlines()[-1].startswith("config/config.yaml: line 2: not valid YAML: ")


def test_the_plugin_changes_nothing_in_other_projects(tmp_path):
    """The plugin is valid, and does nothing without a Snakefile of this project."""
    script = """
import snakemake.cli, snakemake.common.configfile as reading
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
plugin = LoggerPluginRegistry().get_plugin("persuasion-rl")
plugin.log_handler(None, None).close()
print(plugin.settings_cls, reading.load_configfile.__module__)
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "None snakemake.common.configfile\n", run.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: s\nseed: !!bool maybe\n", "line 2"),
        ("study: s\nseed: !!timestamp foo\n", "line 2"),
        (
            "study: s\ndata: " + "[" * 100_000,
            "line 2: not valid YAML: nested deeper than 50 levels",
        ),
        (
            "study: s\na: &a {b: *a}\n",
            "line 2: not valid YAML: an alias (*name) stands inside what it stands for",
        ),
        ("a: &a [*a]\n", "line 1: not valid YAML: an alias (*name) stands inside"),
        ("a: &a {<<: *a}\n", "line 1: not valid YAML: an alias (*name) stands inside"),
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 12)),
            "not valid YAML: with its aliases it has more than 100,000 values",
        ),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60)),
            "not valid YAML: nested deeper than 50 levels",
        ),
        ("a: " + "9" * 5000 + "\n", "line 1: not valid YAML: '9999"),
        (
            '{"study": "s", "data": {"a": 1,\n\t"a": 2}}',
            "not valid: the key 'a' stands there twice",
        ),
        (
            "a: 1\nseed: 010\n",
            "line 2: YAML reads '010' as 8, to the base of eight: write the number",
        ),
        ("seed: 0x10\n", "line 1: YAML reads '0x10' as 16, to the base of sixteen"),
        ("seed: -0b11\n", "line 1: YAML reads '-0b11' as -3, to the base of two"),
        ("seed: 10:30\n", "line 1: YAML reads '10:30' as 630, to the base of sixty"),
        ("a:\n- 1\n- 1:30.5\n", "line 3: YAML reads '1:30.5' as 90.5, to the base of sixty"),
        ("a:\n  yes: 1\n", "line 2: YAML reads the key 'yes' as true or false: put it in quotes"),
        ("models: {1: {}}\n", "line 1: YAML reads the key '1' as a number: put it in quotes"),
        ("2024-01-01: 1\n", "line 1: YAML reads the key '2024-01-01' as a date"),
        ("~: 1\n", "line 1: YAML reads the key '~' as nothing"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "not valid: nested deeper than 50 levels"),
        ('{"a": ' + "[" * 99_999 + "]" * 99_999 + "}", "nested too deep"),
    ],
)
def test_what_yaml_itself_breaks_on_is_one_line(tmp_path, text, message):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_config_file(file)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "loop.yaml"])
def test_a_file_that_cannot_be_extended_is_one_line(tmp_path, name):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(UserError) as error:
        load_config({"study": "s", "extends": name}, tmp_path / "mine.yaml")
    assert "\n" not in str(error.value) and "\0" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2**32}, "seed"),
        ({"data": {"max_examples": 10**400}}, "data.max_examples"),
        ({"study": "-x"}, "study"),
        ({"evaluation": {"players": ["base", "sft"], "comparisons": ["sft:sft"]}}, "evaluation.comparisons"),
    ],
)  # fmt: skip
def test_values_that_a_job_would_choke_on_are_refused(changes, key):
    demo = Path(__file__).parents[2] / "config/demo.yaml"
    with pytest.raises(UserError, match=f"^{re.escape(key)}: "):
        load_config(yaml.safe_load(demo.read_text()) | changes, demo)


def test_a_study_may_be_json(tmp_path):
    file = tmp_path / "small.json"
    file.write_text(json.dumps(STUDY | {"sampling": {"temperature": 1e-3}}, indent="\t"))
    assert load_config_file(file).sampling.temperature == 1e-3


@pytest.mark.parametrize(
    ("key", "value", "hinted"),
    [
        ("sampling", {"temperature": "1"}, True),
        ("data", {"use_p4g": "true"}, True),
        ("models", {"sft": "1"}, True),
        ("sampling", {"top_p": "0.5"}, False),
        ("seed", "0x1", False),
    ],
)
def test_values_inside_config_are_text_and_that_is_said(study_file, key, value, hinted):
    """Snakemake reads --config 'sampling={temperature: 1}' this way."""
    file = study_file("small.yaml", **STUDY, **({} if hinted else {"sampling": {"top_p": "0.5"}}))
    keys = read_config_file(file)
    keys[key] = keys.get(key, {}) | value if isinstance(value, dict) else value
    with pytest.raises(UserError) as error:
        load_config(keys, file)
    assert ("inside --config 'KEY={...}' every value is text" in str(error.value)) is hinted


def test_names_that_look_like_patterns_are_names(checkout):
    """Names of corpora, players and files with special characters are planned like any other."""
    file = checkout / "config/a{b}(.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "extends": "demo.yaml",
                "study": "odd",
                "data": {"cmv_corpora": ["a (b+ c[d", "x,y"]},
                "wandb": {"project": "a b,%c$d'"},
                "evaluation": {
                    "players": ["base", "sft", "g.p-t", "human"],
                    "other_players": {"g.p-t": {"model": "base"}},
                },
            }
        )
    )
    run = snakemake(
        "-n", "--configfile", file, root=checkout, PYTHONPATH=str(checkout / "workflow")
    )
    file.unlink()
    assert run.returncode == 0, run.stdout[-1000:]
    assert "results/odd/corpora/a (b+ c[d/utterances.jsonl" in run.stdout
