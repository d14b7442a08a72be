"""Groups are an equivalence, and no split divides one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from monai_train.data.manifest import ManifestRow
from monai_train.data.patients import SplitRole, name_groups, split_roles, split_sha256


def row(group: str, dataset: str = "main") -> ManifestRow:
    return ManifestRow("p.dcm", "glioma", group, "p", dataset, "0" * 64, 100, 100, None, False)


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from(["main", "outside"])), max_size=60))
def test_no_patient_on_two_sides(pictures: list[tuple[str, str]]) -> None:
    rows = [row(group, dataset=dataset) for group, dataset in pictures]
    roles = split_roles(rows, ("outside",), 0.3, 0.2)
    trained = {SplitRole.TRAIN, SplitRole.VALIDATION}
    for r, role in zip(rows, roles, strict=True):
        same = {other for q, other in zip(rows, roles, strict=True) if q.patient_group == r.patient_group}
        assert len(same & {SplitRole.TRAIN, SplitRole.VALIDATION, SplitRole.TEST}) <= 1
        assert (role in {SplitRole.EXTERNAL, SplitRole.OVERLAP}) == (r.dataset == "outside")
        assert not (SplitRole.EXTERNAL in same and same & trained)


def test_split_does_not_depend_on_other_data() -> None:
    rows = [row(f"G{i}") for i in range(200)]
    roles = split_roles(rows, (), 0.2, 0.1)
    assert split_roles(rows[50:], (), 0.2, 0.1) == roles[50:]
    assert 0.12 < roles.count(SplitRole.TEST) / 200 < 0.28
    assert split_sha256(rows, roles) == split_sha256(rows[::-1], roles[::-1])


tokens = st.lists(
    st.tuples(st.sampled_from(["", "G1", "G2", "G3"]), st.sampled_from([f"p{n}" for n in range(8)])), max_size=25
)


@settings(max_examples=300, deadline=None)
@given(tokens)
def test_groups_are_an_equivalence_and_their_names_do_not_depend_on_the_order(items: list[tuple[str, str]]) -> None:
    names = name_groups(items)
    for i, one in enumerate(items):
        assert names[i]
        for j, other in enumerate(items):
            if set(one) & set(other) - {""}:
                assert names[i] == names[j]
    assert name_groups(items[::-1]) == names[::-1]
    # Nothing is joined without a chain of shared tokens: every group is connected.
    for name in set(names):
        members = [set(item) - {""} for item, group in zip(items, names, strict=True) if group == name]
        reached, rest = members[0], members[1:]
        while near := [m for m in rest if m & reached]:
            reached = reached.union(*near)
            rest = [m for m in rest if m not in near]
        assert not rest
