from wsitool.base.groups import group_clashes, group_name


def test_names_are_stripped() -> None:
    assert group_name("  P 1\t") == "P 1" and group_name(" \n") == ""


def test_clashes_are_said() -> None:
    assert group_clashes(["P1", "P1", "P2", "Q"]) == ""
    told = group_clashes(["P1", "p1", "P 2", "P-2", "P3"])
    assert "count as different patients: 'P 2' and 'P-2'; 'P1' and 'p1'. Spell" in told
    assert "and 2 more. Spell" in group_clashes([name for k in range(7) for name in (f"a{k}", f"A{k}")])
