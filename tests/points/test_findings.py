"""The table of rules in the documents is the rules' own."""

import re
from pathlib import Path

import pytest

from fdd.points.rules import RULES, select_rules

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "checks.md"


def test_the_table_is_that_of_the_rules():
    rows = re.findall(r"^\| ([EWI]\d+) \| (.*) \|$", DOCUMENT.read_text("utf-8"), re.M)
    wanted = [
        (r.code, f"{r.severity} | {r.title} | {r.fix} | {'yes' if r.fixable else ''}")
        for r in RULES.values()
    ]
    assert sorted(rows) == sorted(wanted)


def test_numbers_are_of_one_rule_each():
    assert len({code[1:] for code in RULES}) == len(RULES)
    assert all(re.fullmatch(r"[EWI][1-6]\d\d", code) for code in RULES)


def test_choosing():
    assert select_rules() == set(RULES)
    assert select_rules(["e20"]) == {"E201", "E202", "E203"}
    assert select_rules(["E20", "W110"], ["E203"]) == {"E201", "E202", "W110"}
    with pytest.raises(ValueError, match="no rule 'E21'; did you mean"):
        select_rules(ignore=["E21"])
