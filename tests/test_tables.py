"""Tables have the bytes of Python's csv module, and are read with their types."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persuasion_rl.files import UserError
from persuasion_rl.tables import read_table, rows_of, write_table

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)
cells = st.one_of(lines, st.integers(), st.floats(), st.booleans(), st.none())


@given(rows=st.lists(st.fixed_dictionaries({"a": cells}, optional={"b": cells}), max_size=5))
def test_a_table_has_the_bytes_of_the_csv_module(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    write_table(path, rows, ["a", "b"])
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, ["a", "b"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        floats = {k: round(v, 6) + 0.0 for k, v in row.items() if isinstance(v, float)}
        writer.writerow(row | floats)
    assert path.read_bytes() == lines.getvalue().encode()


@pytest.mark.parametrize("text", ["a\rb", "\r", "a\r\nb", 'a\r,"b"'])
def test_a_text_may_have_a_bare_carriage_return(tmp_path, text):
    """Python's csv module writes it without quotes, and readers take it for the end of a row."""
    rows = [{"unit": text, "rank": 1, "p": 0.5}, {"unit": "c", "rank": 2, "p": ""}]
    write_table(tmp_path / "t.csv", rows, ["unit", "rank", "p"])
    assert rows_of(read_table(tmp_path / "t.csv")) == rows
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert [row["unit"] for row in csv.DictReader(file)] == [text, "c"]


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_names_and_texts_come_back_as_they_were(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    rows = [{"conversation_id": one, "unit": other} for one, other in names]
    write_table(path, rows, ["conversation_id", "unit"])
    assert rows_of(read_table(path)) == rows


@pytest.mark.parametrize("name", ["nan", "NA", "None", "", "0012", "1e5", "true", " x "])
def test_a_name_that_looks_like_something_else_stays_a_name(tmp_path, name):
    write_table(tmp_path / "t.csv", [{"player": name, "rank": 1}], ["player", "rank"])
    table = read_table(tmp_path / "t.csv")
    assert list(table["player"]) == [name]
    assert rows_of(table) == [{"player": name, "rank": 1}]


def test_numbers_are_numbers_and_an_empty_cell_is_missing(tmp_path):
    rows = [
        {
            "player": "a",
            "rank": 1,
            "low": -1e-9,
            "p": float("nan"),
            "seeds": 2,
            "value": "not measured",
        },
        {"player": "b", "rank": 2, "low": 1 / 3, "p": 0.5, "seeds": None, "value": 3},
        {"player": "c", "rank": 3, "low": 2.0, "p": 1e-5, "seeds": 1, "value": 0.25},
    ]
    write_table(tmp_path / "t.csv", rows, list(rows[0]))
    table = read_table(tmp_path / "t.csv")
    kinds = {name: str(kind) for name, kind in table.dtypes.items() if name != "player"}
    assert kinds == {
        "rank": "int64", "low": "float64", "p": "float64", "seeds": "Int64", "value": "object",
    }  # fmt: skip
    assert table["p"].mean() == pytest.approx(0.250005) and table["seeds"].sum() == 3
    assert rows_of(table) == [
        {"player": "a", "rank": 1, "low": 0.0, "p": "", "seeds": 2, "value": "not measured"},
        {"player": "b", "rank": 2, "low": 0.333333, "p": 0.5, "seeds": "", "value": 3},
        {"player": "c", "rank": 3, "low": 2.0, "p": 1e-05, "seeds": 1, "value": 0.25},
    ]
    assert "-0.0" not in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize(
    ("number", "text"),
    [(2.5e-6, "3e-06"), (3.5e-6, "3e-06"), (4.5e-6, "5e-06"), (-1e-9, "0.0")],
)
def test_a_float_is_rounded_by_its_exact_value(tmp_path, number, text):
    """pandas and numpy scale, round and scale back, which gives 2e-06, 4e-06, 4e-06."""
    write_table(tmp_path / "t.csv", [{"p": number}], ["p"])
    assert (tmp_path / "t.csv").read_text() == f"p\n{text}\n"


def test_a_table_without_rows_has_its_columns(tmp_path):
    write_table(tmp_path / "t.csv", [], ["player", "rank"])
    table = read_table(tmp_path / "t.csv")
    assert list(table.columns) == ["player", "rank"] and rows_of(table) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty, where a table is expected"),
        (b"judge,value\n\xff,1\n", "not UTF-8 text"),
        (b'judge,value\n"a,1\n', "not a table"),
        (b"judge,value\na,1,2\nb,1\n", "line 2 has 3 cells, and the table has 2 columns"),
        (b'judge,value\n\n"a\nb",1,2\n', "line 4 has 3 cells, and the table has 2 columns"),
        (b"judge,value,judge\na,1,b\n", "line 1: two columns are named 'judge'"),
        (b"judge,value\na,1,2\n" * 2 + b"b,1,2,3,4\n", "not a table"),
        (None, "cannot be read"),
        ("folder", "cannot be read"),
    ],
)
def test_what_is_no_table_is_one_line_that_names_it(tmp_path, content, problem):
    path = tmp_path / "t.csv"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_table(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: {problem}") and "makes it again" in line


def test_a_number_that_no_column_holds_is_read(tmp_path):
    (tmp_path / "t.csv").write_text(f"value\n{10**30}\n")
    assert rows_of(read_table(tmp_path / "t.csv")) == [{"value": 1e30}]


def test_a_row_with_a_column_that_the_table_has_not_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="ranc"):
        write_table(tmp_path / "t.csv", [{"ranc": 1}], ["rank"])
    assert not list(tmp_path.iterdir())
