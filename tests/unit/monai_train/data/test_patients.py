"""Groups are an equivalence, and no split divides one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from monai_train.data.manifest import ManifestRow
from monai_train.data.patients import (
    EARLIER,
    LEARNED,
    SplitRole,
    earlier_pictures,
    name_groups,
    split_roles,
    split_sha256,
    unseen,
)


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


def test_a_diagnosis_of_a_data_set_may_be_external() -> None:
    rows = [replace(row(f"G{i}", "cases"), diagnosis=("germinoma", "abscess")[i % 2]) for i in range(40)]
    rows.append(replace(row("other", "main"), diagnosis="germinoma"))
    roles = split_roles(rows, ("cases:germinoma",), 0.2, 0.2)
    external = [r.dataset == "cases" and r.diagnosis == "germinoma" for r in rows]
    assert [role is SplitRole.EXTERNAL for role in roles] == external


def test_what_was_learned_is_left_out_with_its_patients_and_copies() -> None:
    rows = [
        replace(row(group), picture_group=picture, source_sha256=sha256 * 64)
        for group, picture, sha256 in (("a", "1", "1"), ("a", "2", "2"), ("b", "1", "3"), ("c", "4", "4"))
    ]
    assert unseen(rows, range(4), frozenset({"1" * 12})) == [3]
    assert unseen(rows, [1, 3], frozenset()) == [1, 3]


def test_what_weights_learned_from_is_found_beside_them(tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    for file in (run / EARLIER, bundle / LEARNED):
        file.parent.mkdir(parents=True)
        file.write_text(f"{file.name}\n")
    assert earlier_pictures(run / "best.pt") == f"{EARLIER}\n"
    assert earlier_pictures(bundle / "models/model.safetensors") == "learned_pictures.txt\n"
    assert earlier_pictures(tmp_path / "downloaded.pth") == ""
