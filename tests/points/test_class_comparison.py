"""The one comparison of two class lists."""

from __future__ import annotations

import pytest

from fdd.points import Category
from fdd.points.class_comparison import compare_classes, describe_differences

CAT, DOG, SKY = Category(1, "cat", True), Category(2, "dog", True), Category(9, "sky", False)


def as_dict(category: Category, **changes) -> dict:
    return {"id": category.id, "name": category.name, "isthing": int(category.isthing)} | changes


def test_categories_and_entries_of_files_compare_alike() -> None:
    assert compare_classes([CAT, SKY], [as_dict(CAT, color=[1, 2, 3]), as_dict(SKY)]) == []
    assert compare_classes([], []) == []


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ([DOG, CAT, SKY], "class 0 is 'cat' (thing, id 1) in A, 'dog' (thing, id 2) in B; class 1"),
        ([CAT, DOG], "class 2 is 'sky' (stuff, id 9) in A, missing in B"),
        ([CAT, DOG, SKY, SKY], "class 3 is missing in A, 'sky' (stuff, id 9) in B"),
        ([CAT, DOG, as_dict(SKY, isthing=1)], "'sky' (stuff, id 9) in A, 'sky' (thing, id 9) in B"),
        ([CAT, DOG, as_dict(SKY, id=8)], "'sky' (stuff, id 9) in A, 'sky' (stuff, id 8) in B"),
    ],
)
def test_order_name_kind_and_id_count(second, said: str) -> None:
    assert said in describe_differences(compare_classes([CAT, DOG, SKY], second), "A", "B")


def test_ids_and_order_can_be_left_out() -> None:
    other = [as_dict(SKY, id=1), as_dict(DOG), as_dict(CAT, id=7)]
    assert compare_classes([CAT, DOG, SKY], other, ordered=False, ids=False) == []
    found = compare_classes([CAT, DOG], [DOG, SKY], ordered=False)
    assert [(d.first, d.second, d.position) for d in found] == [
        (CAT, None, None),
        (None, SKY, None),
    ]
    text = describe_differences(found, "A", "B", ids=False)
    assert text == "only A has 'cat' (thing); only B has 'sky' (stuff)"


def test_a_long_list_is_cut() -> None:
    many = [Category(n, f"c{n}", True) for n in range(90)]
    text = describe_differences(compare_classes(many, []), "A", "B")
    assert "'c2'" in text and "'c3'" not in text and text.endswith("and 87 more")
