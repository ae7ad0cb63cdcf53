"""Tables as Markdown, CSV and LaTeX."""

from ersparse.storage.tables import Column, Table, csv_table, decimals, markdown_table

TABLE = Table(
    "a_b",
    [Column("name", "name", number=False), Column("x", "x, %", decimals(2, signed=True))],
    [{"name": "p|q", "x": -0.001}, {"name": "±", "x": None}, {"name": "r", "x": -1.5}],
    ["a note"],
)


def test_markdown_escapes_pipes_and_marks_missing_values():
    assert TABLE.markdown() == (
        "### a_b\n\n| name | x, % |\n| --- | ---: |\n| p\\|q | 0.00 |\n| ± | – |\n| r | −1.50 |\n\na note\n"
    )


def test_csv_has_keys_and_unformatted_values():
    assert TABLE.csv() == "name,x\np|q,-0.001\n±,\nr,-1.5\n"


def test_latex_is_escaped():
    lines = TABLE.latex().splitlines()
    assert lines[2:4] == [r"\caption{a\_b}", r"\begin{tabular}{lr}"]
    assert lines[5] == r"name & x, \% \\" and lines[8:10] == [r"$\pm$ & -- \\", r"r & $-$1.50 \\"]


def test_empty_tables_have_a_head():
    assert markdown_table(["a"], []) == "| a |\n| --- |\n" and csv_table(["a"], []) == "a\n"
