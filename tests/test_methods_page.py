"""docs/methods.md has what the registry and the cards say."""

from tests.benchmarks.methods_table import ADVICE, BEGIN, END, PAGE, made


def test_the_page_is_what_registry_and_cards_say():
    text = PAGE.read_text(encoding="utf-8")
    written = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()
    assert written == made().strip(), "run `python -m tests.benchmarks.methods_table`"
    assert all(written.count(begin) >= 18 for begin in ADVICE)
