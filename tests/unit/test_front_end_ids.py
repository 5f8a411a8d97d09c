"""Ids of front ends: the same for the same owner, and nobody else's."""

from longtask_kit.log.keys import is_task_id
from longtask_kit.server.front_ends.ids import Ids, name_owner

ONE, TWO = (name_owner(key="k", owner=who) for who in ("one", "two"))


def test_an_id_of_the_clients_choice_leads_to_one_task_for_each_owner() -> None:
    ids, others = Ids("s", ONE), Ids("s", TWO)
    assert ids.find("run", "x") == Ids("s", ONE).find("run", "x")
    found = [
        ids.find("run", "x"),
        ids.find("chat", "x"),
        ids.find("run", "y"),
        others.find("run", "x"),
        Ids("t", ONE).find("run", "x"),
        Ids("s", "").find("run", "x"),
        ids.make(),
        ids.make(),
    ]
    assert len(set(found)) == len(found)
    assert all(is_task_id(task_id) for task_id in found)


def test_whose_a_task_is_can_be_told_from_its_id() -> None:
    ids, others = Ids("s", ONE), Ids("s", TWO)
    for task_id in (ids.make(), ids.find("run", "x")):
        assert ids.has(task_id)
        assert not others.has(task_id)
        assert not ids.has(task_id[:-1])
        assert not ids.has(task_id + "x")
    for guess in ("", "task_", "task_12345678", "task_" + "ä" * 44):
        assert not ids.has(guess)


def test_no_owner_can_spell_another_ones_name() -> None:
    spelled = {
        name_owner(key=key, owner=who) for key in ("", "k") for who in (None, "", "k", "k\n")
    }
    assert len(spelled) == 5  # of an owner, the key plays no part
    first = Ids("s", name_owner(key="", owner="a\nb")).find("run", "c")
    assert first != Ids("s", name_owner(key="", owner="a")).find("run", "b\nc")
    assert Ids("s", ONE).find("run", "\ud800"), "half a surrogate pair is some id, too"
