"""The documents show the tables of the studies as their rows are now."""

import marked
import pytest
import study_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*known to collapse")


@pytest.mark.parametrize("path", study_tables.documents(), ids=lambda path: path.name)
def test_documents_show_the_studies_as_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert study_tables.written(text) == text, "python tools/study_tables.py writes it anew"


def test_every_mark_of_a_table_is_understood():
    texts = [path.read_text(encoding="utf-8") for path in study_tables.documents()]
    tables = sum(len(marked.tables_of("study").findall(text)) for text in texts)
    assert tables == sum(text.count("\n<!-- study") for text in texts) > 0
    assert tables == sum(text.count("\n<!-- end of study") for text in texts)


@pytest.mark.parametrize("before", ["", "\n(an old table)\n\n"])
def test_only_what_is_between_the_marks_is_written_anew(before):
    mark = "<!-- study: digits main; rows KL -->"
    text = f"One.\n\n{mark}\n{before}<!-- end of study -->\n\nTwo.\n\n" * 2
    table = study_tables.table("digits main; rows KL")
    new = f"One.\n\n{mark}\n\n{table}\n\n<!-- end of study -->\n\nTwo.\n\n" * 2
    assert study_tables.written(text) == study_tables.written(new) == new


@pytest.mark.parametrize("mark", ["<!-- study: digits main -->", "<!-- end of study -->"])
@pytest.mark.parametrize("lost", [" -->", "<!-- "])
def test_a_mark_without_the_other_is_refused(mark, lost):
    text = "<!-- study: digits main -->\n\n<!-- end of study -->\n"
    for broken in ("", mark.replace(lost, "")):
        with pytest.raises(ValueError, match="Expected a line '<!-- end of study -->' below every"):
            study_tables.written(text + text.replace(mark, broken) + text)


def test_a_table_has_the_rows_and_columns_that_are_asked_for():
    lines = study_tables.table("digits main; rows KL | InfoNCE; without seeds, s").splitlines()
    assert lines[0].startswith("|  | chosen | kNN |")
    assert lines[0].endswith("less InfoNCE |")
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| KL", "| InfoNCE"]
    assert lines[5].startswith("Noise pooled over 5 rows")


@pytest.mark.parametrize(
    ("what", "received"),
    [
        ("digits nothing", "group='nothing'"),
        ("digits main; rows KL | Nothing", "rows='Nothing'"),
        ("digits main; without nothing", "without='nothing'"),
        ("digits main; only KL", "option='only'"),
    ],
)
def test_what_is_not_there_is_refused(what, received):
    with pytest.raises(ValueError, match=received):
        study_tables.table(what)
