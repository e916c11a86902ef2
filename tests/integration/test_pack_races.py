# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions, prunes, rewrites and copies of one history of sealed packs at the same moment, each held up where it hurts most."""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Iterator, List, Mapping, Optional

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.action.rekey import rekey
from ansible_collections.openclaw.backup.plugins.module_utils.target.contract import Snapshot
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import remembered as remembered_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import repository as repository_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import rewrite as rewrite_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack import session as session_module
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.copy import PackCopySession
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.format import seal_object
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.remembered import RememberedStore
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.repository import Repository
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.rewrite import Rewrite
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.store import DirectoryStore, Item, Store
from ansible_collections.openclaw.backup.plugins.module_utils.target.pack.target import PackTarget

from .test_repack import names
from .test_replicate_packs import Copies
from .world import Notes, Packed, error_of

Choice = Callable[[List[Snapshot]], Mapping[str, str]]


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Packed]:
    made = Packed.make()
    assert isinstance(made, Packed)
    yield made
    monkeypatch.undo()
    made.destroy()


def backup(packed: Packed) -> str:
    return str(packed.backup(policy=packed.policy(anomaly={"changed_percent": 0})).snapshot_id)


def target_of(packed: Packed, *, store: Optional[Store] = None, keys: Optional[List[bytes]] = None, is_blind: bool = False) -> PackTarget:
    """What another machine has: of the ``keys`` (None: the policy's) the first seals."""
    first, *old = keys or [bytes.fromhex(packed.key.read_text().strip())]
    return PackTarget(store or DirectoryStore(str(packed.vault)), "h", "p", None if is_blind else lambda: first, [lambda key=key: key for key in old])  # type: ignore[misc]


def remembered(packed: Packed) -> RememberedStore:
    return RememberedStore(DirectoryStore(str(packed.vault)), "h/p/", None, None)


def all_but(*ids: str) -> Choice:
    return lambda snapshots: {snapshot.id: "" for snapshot in snapshots if snapshot.id not in ids}


def check(target: PackTarget, *ids: str) -> None:
    """These are there, the newest last, and whole."""
    found = target.list()
    assert [snapshot.id for snapshot in reversed(found)] == list(ids)
    for snapshot in found:
        assert target.verify(snapshot, depth="full", record=False).ok, snapshot.id


def differences(packed: Packed, monkeypatch: pytest.MonkeyPatch, *, versions: int, waste: int = 0) -> List[str]:
    """A history of a full manifest and differences to it; the first pack holds ``waste`` bytes that the first snapshot alone needs."""
    monkeypatch.setattr(session_module, "FULL_UP_TO", 0)
    for number in range(200):
        (packed.src / ("file%03d" % number)).write_bytes(b"%d" % number * 50)
    if waste:
        (packed.src / "waste").write_bytes(os.urandom(waste))
    ids = []
    for version in range(versions):
        (packed.src / "log").write_bytes(os.urandom(2000 + version))
        ids.append(backup(packed))
        (packed.src / "waste").unlink(missing_ok=True)
    return ids


# ---- rewrites ----------------------------------------------------------------------------------------------------------------


def test_a_rekey_that_another_was_faster_than_leaves_nothing_that_needs_the_old_key(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = differences(packed, monkeypatch, versions=3)
    old, new = bytes.fromhex(packed.key.read_text().strip()), os.urandom(32)
    refuse_first(monkeypatch, "manifests/0000000001-000001")
    both = target_of(packed, keys=[new, old])
    both.rekey()
    assert both.keys() == [both.repository.key_id]
    check(target_of(packed, keys=[new]), *ids)
    packed.days_pass(1)
    both.sweep()
    check(target_of(packed, keys=[new]), *ids)


@pytest.mark.parametrize("is_conditional", [True, False])
def test_who_began_with_the_old_key_cannot_commit_once_a_rekey_is_under_way(packed: Packed, is_conditional: bool) -> None:
    store = DirectoryStore(str(packed.vault), is_conditional=is_conditional)
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    old, new = bytes.fromhex(packed.key.read_text().strip()), os.urandom(32)
    manifest = target_of(packed).manifest(target_of(packed).list()[0])
    late = target_of(packed, store=store).begin("ab" * 16, first)
    both = target_of(packed, store=store, keys=[new, old])
    assert both.rekey().snapshots == 1
    refused = error_of(late.commit, manifest)
    late.close()
    assert (refused.kind, refused.rc, refused.allowed) == ("key", 6, both.key_id) and "target.old_key_files" in str(refused.next)
    assert error_of(target_of(packed).begin, "cd" * 16, first).kind == "key"
    assert names(packed, "manifests") == ["0000000001", "0000000001-000001", "0000000002"]
    assert not both.rekey().snapshots and len(names(packed, "manifests")) == 3
    assert both.keys() == [both.key_id]
    only = target_of(packed, keys=[new])
    second = only.begin("ef" * 16, first).commit(manifest)
    assert (second.sequence, second.parent) == (3, first)
    check(target_of(packed, keys=[new]), first, second.id)
    assert [snapshot.id for snapshot in target_of(packed, is_blind=True).list()] == [second.id, first]
    packed.days_pass(1)
    target_of(packed, keys=[new]).remove(all_but(first, second.id))
    assert names(packed, "manifests") == ["0000000001-000001", "0000000003"]
    check(target_of(packed, keys=[new]), first, second.id)


def test_nobody_without_the_key_can_say_that_a_snapshot_never_was_one(packed: Packed) -> None:
    """Who may only add objects could hide it behind an edition that nobody can open."""
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    target = target_of(packed)
    header = {**target.repository.header(target.repository.commits()[0]), "removed": "2026-11-20T09:15:00.123Z"}
    for number, edition, packs in ((2, 0, {}), (3, 0, header["packs"]), (1, 1, {})):
        said = {**header, "packs": packs, "number": number, "edition": edition, "receipt": {**header["receipt"], "sequence": number}}
        name = target.repository.manifest_name(number, edition)
        (packed.vault / name).write_bytes(seal_object(os.urandom(32), bytes(16), said, b""))
        assert error_of(target_of(packed).begin, "ab" * 16, None).kind == ("seal" if edition or packs else "key")
        if edition or packs:
            assert error_of(target_of(packed).list).kind == "seal"
        else:
            check(target_of(packed), first)
        (packed.vault / name).unlink()


def test_a_rekey_takes_a_number_where_it_must_and_only_there(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed.src / "file").write_bytes(b"content")
    ids = [backup(packed)]
    old, new, newer = bytes.fromhex(packed.key.read_text().strip()), os.urandom(32), os.urandom(32)
    manifest = target_of(packed).manifest(target_of(packed).list()[0])
    # The newest snapshot is sealed with the new key: who began before it is too late anyway.
    ids.append(target_of(packed, keys=[new, old]).begin("ab" * 16, ids[0]).commit(manifest).id)
    target_of(packed, keys=[new, old]).rekey()
    assert names(packed, "manifests") == ["0000000001", "0000000001-000001", "0000000002", "0000000002-000001"]
    # One with the old key is faster: it is sealed anew, too.
    put = Repository._put_number

    def overtaken(repository: Repository, *arguments: Any) -> bool:
        monkeypatch.undo()
        ids.append(target_of(packed, keys=[new]).begin("cd" * 16, ids[1]).commit(manifest).id)
        return put(repository, *arguments)

    monkeypatch.setattr(Repository, "_put_number", overtaken)
    both = target_of(packed, keys=[newer, new])
    both.rekey()
    assert names(packed, "manifests")[-3:] == ["0000000003", "0000000003-000001", "0000000004"] and both.keys() == [both.key_id]
    check(target_of(packed, keys=[newer]), *ids)
    assert both.removed_ids().isdisjoint(ids)


def test_copies_keep_the_numbers_of_their_origins_when_they_are_sealed_anew(packed: Packed) -> None:
    copies = Copies(packed)
    (packed.src / "file").write_bytes(b"content")
    ids = [backup(packed)]
    copies.pull()
    newer = packed.root / "newer"
    newer.write_text(os.urandom(32).hex())
    newer.chmod(0o600)
    copies.spec.update(key_file=str(newer), old_key_files=[str(copies.key)])
    notes = Notes()
    assert rekey(copies.policy(), state_directory=str(copies.state), progress=notes).snapshots == 1
    assert any("copies come here" in text for text in notes.notes)
    assert names(packed, "manifests") == ["0000000001"] == [path.name for path in (copies.vault / "h" / "p" / "manifests").iterdir() if "-" not in path.name]
    (packed.src / "file").write_bytes(b"more")
    ids.append(backup(packed))
    assert copies.pull().count == 1
    check(copies.target, *ids)


def refuse_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The first who would write that object is told that another was faster, who takes it back again."""
    put, refused = DirectoryStore.put, []

    def refusing(store: DirectoryStore, found: str, *arguments: Any, **options: Any) -> bool:
        if found.endswith(name) and not refused:
            refused.append(found)
            return False
        return put(store, found, *arguments, **options)

    monkeypatch.setattr(DirectoryStore, "put", refusing)


def test_the_key_of_a_base_counts_until_nothing_is_the_difference_to_it(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = differences(packed, monkeypatch, versions=3)
    old, new = bytes.fromhex(packed.key.read_text().strip()), os.urandom(32)
    both = target_of(packed, keys=[new, old])
    with monkeypatch.context() as careless:
        careless.setattr(Rewrite, "_in_place_of", lambda rewrite, base, now: base)
        careless.setattr(rewrite_module, "_ROUNDS", 1)
        refuse_first(careless, "manifests/0000000001-000001")
        both.rekey()
    target_of(packed, keys=[new, old]).remove(all_but(*ids[1:]))
    assert {commit.key for commit in both.repository.commits() if not commit.removed} == {both.repository.key_id}
    assert len(both.keys()) == 2
    both.rekey()
    assert both.keys() == [both.repository.key_id]
    check(target_of(packed, keys=[new]), *ids[1:])


def test_what_a_lost_answer_was_about_is_known_for_ones_own(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that stored, and whose answer was lost, says on being asked again that the name is taken."""
    first, second = differences(packed, monkeypatch, versions=2)
    put = DirectoryStore.put

    def taken(store: DirectoryStore, name: str, *arguments: Any, only_if_absent: bool = False) -> bool:
        return put(store, name, *arguments, only_if_absent=only_if_absent) and not only_if_absent

    monkeypatch.setattr(DirectoryStore, "put", taken)
    target = target_of(packed)
    target.hold(target.list()[0], "a reason")
    target.remove(all_but(second))
    check(target, second)
    assert names(packed, "state") == ["0000000001-000001", "0000000002-000001"]


def test_a_prune_takes_no_manifest_that_a_rewrite_elsewhere_makes_others_the_difference_to(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = differences(packed, monkeypatch, versions=4, waste=200_000)
    target_of(packed).remove(all_but(*ids[1:]))
    put, others = DirectoryStore.put, []

    def meanwhile(store: DirectoryStore, name: str, *arguments: Any, **options: Any) -> bool:
        is_done = put(store, name, *arguments, **options)
        if name.endswith("manifests/0000000002-000001") and not others:
            others.append(target_of(packed))
            others[0].remove(all_but(*ids[2:]))
        return is_done

    monkeypatch.setattr(DirectoryStore, "put", meanwhile)
    done = target_of(packed, store=remembered(packed)).repack(25)
    assert others and done is not None and done.packs == 1
    check(target_of(packed), *ids[2:])
    for _day in range(2):
        packed.days_pass(1)
        target_of(packed).remove(all_but(*ids[2:]))
        check(target_of(packed), *ids[2:])


# ---- prunes ------------------------------------------------------------------------------------------------------------------


def listing(monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[], Any], *, at: int = 1) -> None:
    """Have ``act`` done right before objects of that kind are listed, for that time from now on."""
    real, count = DirectoryStore.list, [0]

    def list_(store: DirectoryStore, prefix: str) -> List[Item]:
        if prefix.endswith("/%s/" % kind):
            count[0] += 1
            if count[0] == at:
                act()
        return real(store, prefix)

    monkeypatch.setattr(DirectoryStore, "list", list_)


@pytest.mark.parametrize("at", [1, 2])
def test_a_long_session_that_commits_and_ends_its_lease_while_a_prune_looks_loses_nothing(packed: Packed, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    target = target_of(packed)
    (packed.src / "more").write_bytes(os.urandom(5000))
    real = session_module.PackSession.commit
    ids = [first]

    def commit(session: Any, manifest: Any, tell: Any = None) -> Any:
        monkeypatch.undo()
        for path in packed.objects("packs"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - session_module.LEASE - 60))
        session._lease.say()
        receipt: List[Any] = []
        listing(monkeypatch, "leases", lambda: receipt.append(real(session, manifest, tell)), at=at)
        target.sweep()
        monkeypatch.undo()
        ids.append(receipt[0].id)
        return receipt[0]

    monkeypatch.setattr(session_module.PackSession, "commit", commit)
    backup(packed)
    check(target_of(packed), *ids)


def test_a_prune_without_the_key_takes_no_pack_that_a_rewrite_began_to_go_by(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(100_000)
    ids = []
    for shape in (["content"], ["other"], ["content", "waste"], ["content"]):
        for name in ("content", "other", "waste"):
            path = packed.src / name
            if name in shape:
                path.write_bytes(content if name == "content" else os.urandom(200_000 if name == "waste" else 50))
            else:
                path.unlink(missing_ok=True)
        ids.append(backup(packed))
    target_of(packed).remove(all_but(ids[0], ids[1], ids[3]))  # what the last one needs lies with waste, and once more in the first one's pack
    packed.days_pass(1)
    delete, publish = DirectoryStore.delete, Rewrite._publish
    is_at_it, may_go_on = threading.Event(), threading.Event()

    def paused(store: DirectoryStore, name: str) -> None:
        if threading.current_thread() is prune and not is_at_it.is_set():
            is_at_it.set()
            assert may_go_on.wait(60)
        delete(store, name)

    def late(rewrite: Any, *arguments: Any) -> Any:
        may_go_on.set()
        prune.join()
        return publish(rewrite, *arguments)

    prune = threading.Thread(target=target_of(packed, is_blind=True).remove, args=(all_but(ids[1], ids[3]),))
    monkeypatch.setattr(DirectoryStore, "delete", paused)
    monkeypatch.setattr(Rewrite, "_publish", late)
    prune.start()
    assert is_at_it.wait(60)
    done = target_of(packed).repack(25)
    assert done is not None and done.packs == 1
    monkeypatch.undo()
    for _day in range(2):
        check(target_of(packed), ids[1], ids[3])
        packed.days_pass(1)
        target_of(packed).remove(all_but(ids[1], ids[3]))
    check(target_of(packed), ids[1], ids[3])


@pytest.mark.parametrize("is_conditional", [True, False])
@pytest.mark.parametrize("is_blind", [False, True])
def test_a_session_whose_number_was_committed_and_removed_meanwhile_is_late(packed: Packed, is_conditional: bool, is_blind: bool) -> None:
    """Its snapshot would be out of order, and the second one that goes on from that parent."""
    store = DirectoryStore(str(packed.vault), is_conditional=is_conditional)
    (packed.src / "file").write_bytes(b"content")
    first = target_of(packed).list()[0] if backup(packed) else None
    assert first is not None
    manifest = target_of(packed).manifest(first)
    late = target_of(packed, store=store).begin("ab" * 16, first.id)
    ids = [first.id]
    for number in range(2):
        ids.append(target_of(packed, store=store).begin("%032x" % number, ids[-1]).commit(manifest).id)
    target_of(packed, is_blind=is_blind).remove(all_but(ids[-1]))
    assert names(packed, "manifests")[-2:] == ["0000000002", "0000000003"]
    assert error_of(late.commit, manifest).kind == "writer"
    late.close()
    check(target_of(packed), *(ids if is_blind else ids[-1:]))
    packed.days_pass(1)
    target_of(packed, is_blind=is_blind).remove(all_but(ids[-1]))
    assert names(packed, "manifests") == ["0000000003"]
    late._lease._renewed -= session_module.LEASE  # type: ignore[attr-defined]
    assert error_of(late.commit, manifest).kind == "writer"
    check(target_of(packed), ids[-1])


def test_what_the_newest_is_the_difference_to_stays_for_who_goes_on_from_it(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = differences(packed, monkeypatch, versions=2)
    target = target_of(packed)
    manifest = target.manifest(target.list()[0])
    session = target_of(packed).begin("ab" * 16, second)
    target.remove(all_but(second))
    packed.days_pass(1)
    target.remove(all_but())  # it is damaged, say
    third = session.commit(manifest).id
    check(target_of(packed), third)
    assert max(path.stat().st_size for path in packed.objects("manifests")[1:]) * 2 < packed.objects("manifests")[0].stat().st_size
    packed.days_pass(1)
    target_of(packed).sweep()
    assert names(packed, "manifests") == ["0000000001", "0000000003"]
    check(target_of(packed), third)


@pytest.mark.parametrize("is_blind", [False, True])
def test_who_goes_on_from_what_is_the_newest_below_a_taken_number_loses_nothing(packed: Packed, is_blind: bool) -> None:
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    old, new = bytes.fromhex(packed.key.read_text().strip()), os.urandom(32)
    target_of(packed, keys=[new, old]).rekey()
    target = target_of(packed, keys=[new])
    manifest = target.manifest(target.list()[0])
    session = target_of(packed, keys=[new]).begin("ab" * 16, first)
    packed.days_pass(1)
    target_of(packed, keys=[new], is_blind=is_blind).remove(all_but())  # it is damaged, say
    second = session.commit(manifest).id
    check(target_of(packed, keys=[new]), *([first] if is_blind else []), second)


def test_a_hold_that_came_with_a_snapshot_after_removed_ones_is_seen(packed: Packed) -> None:
    for number in range(40):
        (packed.src / ("file%02d" % number)).write_bytes(b"%d" % number)
    first, second = backup(packed), target_of(packed)
    manifest = second.manifest(second.list()[0])
    removed = second.begin("ab" * 16, first).commit(manifest).id
    target_of(packed).remove(all_but(first))
    for path in packed.src.iterdir():
        path.write_bytes(os.urandom(500))
    third = packed.backup(adopt=True)
    assert third.rc == 3
    newest, oldest = target_of(packed).list()
    assert (oldest.id, newest.receipt.sequence) == (first, 3) and removed not in (oldest.id, newest.id)
    found = target_of(packed).find(oldest.receipt)
    assert oldest.held and found is not None and found.held == oldest.held


def test_a_hold_on_a_snapshot_that_comes_during_a_prune_stays(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    ids = [first]

    def meanwhile() -> None:
        (packed.src / "new").write_bytes(b"new")
        ids.append(backup(packed))
        target = target_of(packed)
        target.hold(target.list()[0], "evidence")

    target = target_of(packed)
    listing(monkeypatch, "packs", meanwhile)
    target.sweep()
    monkeypatch.undo()
    check(target_of(packed), *ids)
    newest = target_of(packed).latest()
    assert newest is not None and newest.id == ids[1] and newest.held and newest.held["reason"] == "evidence"


def test_a_prune_without_the_key_looks_at_what_is_there_now(packed: Packed) -> None:
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    (packed.src / "new").write_bytes(b"new")
    second = backup(packed)
    blind = target_of(packed, store=remembered(packed), is_blind=True)
    assert [snapshot.id for snapshot in blind.list()] == [second, first]
    target_of(packed).hold(target_of(packed).list()[1], "a reason")
    blind.remove(lambda snapshots: {snapshot.id: "" for snapshot in snapshots if not snapshot.held and snapshot.id != second})
    check(target_of(packed), first, second)


def test_what_nothing_is_asked_of_is_not_looked_at(packed: Packed) -> None:
    (packed.src / "waste").write_bytes(os.urandom(50_000))
    (packed.src / "file").write_bytes(b"content")
    backup(packed)
    (packed.src / "waste").unlink()
    last = backup(packed)
    target = target_of(packed)
    target.remove(all_but(last))
    listed = names(packed, "")
    assert target.repack(100) == (0, 0, 0, 0, 0, {}) and names(packed, "") == listed


# ---- clocks, and what was seen long ago ------------------------------------------------------------------------------------------


def test_a_session_whose_stores_clock_is_set_forward_looks_before_it_commits(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed.src / "file").write_bytes(b"content")
    first = backup(packed)
    (packed.src / "more").write_bytes(os.urandom(5000))
    clock, real = DirectoryStore.clock, session_module.PackSession.commit

    def commit(session: Any, manifest: Any, tell: Any = None) -> Any:
        monkeypatch.setattr(DirectoryStore, "clock", lambda store: clock(store) + 2 * session_module.LEASE)
        target_of(packed).sweep()
        return real(session, manifest, tell)

    monkeypatch.setattr(session_module.PackSession, "commit", commit)
    assert error_of(backup, packed).kind == "transfer"
    check(target_of(packed), first)
    monkeypatch.undo()
    assert names(packed, "leases") == []
    check(target_of(packed), first, backup(packed))


def test_a_copy_that_goes_on_takes_up_nothing_that_a_prune_is_removing(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(packed)
    (packed.src / "file").write_bytes(b"content")
    ids = [backup(packed)]
    copies.pull()
    (packed.src / "more").write_bytes(os.urandom(5000))
    ids.append(backup(packed))
    with monkeypatch.context() as dying:
        dying.setattr(PackCopySession, "commit", _die)
        with pytest.raises(KeyboardInterrupt):
            copies.pull()
    for path in (copies.vault / "h" / "p").rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - session_module.LEASE - 60))
    delete, done = DirectoryStore.delete, []

    def meanwhile(store: DirectoryStore, name: str) -> None:
        if "/packs/" in name and not done:
            done.append(copies.pull().count)
        delete(store, name)

    monkeypatch.setattr(DirectoryStore, "delete", meanwhile)
    copies.target.sweep()
    assert done == [1]
    check(copies.target, *ids)


def _die(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("is_old", [False, True])
def test_a_session_begins_with_a_look_that_is_younger_than_an_hour(packed: Packed, monkeypatch: pytest.MonkeyPatch, is_old: bool) -> None:
    (packed.src / "file").write_bytes(b"content")
    store = remembered(packed)
    backup(packed)
    target = target_of(packed, store=store)
    before = target.latest()
    assert before is not None
    after = target_of(packed).begin("ab" * 16, before.id).commit(target.manifest(before))
    if is_old:
        monkeypatch.setattr(remembered_module, "ticks", lambda: session_module.ticks() + remembered_module.TRUSTED_FOR)
        assert error_of(target.begin, "cd" * 16, before.id).kind == "writer"
        check(target, before.id, after.id)
    else:
        assert target.begin("cd" * 16, before.id) is not None


def test_memory_holds_no_more_than_a_part_of_what_was_read(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (packed.src / "file").write_bytes(b"%d" % number)
        backup(packed)
    monkeypatch.setattr(remembered_module, "_MOST", 10)
    store = remembered(packed)
    target = target_of(packed, store=store)
    check(target, *[snapshot.id for snapshot in reversed(packed.snapshots())])
    assert len(store._bytes) == 1 and store._held == sum(map(len, store._bytes.values()))
    target.hold(target.list()[0], "a reason")
    assert store._held == sum(map(len, store._bytes.values()))


def test_of_a_manifest_with_a_long_header_its_header_is_read(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed.src / "file").write_bytes(b"content")
    for number in range(200):
        (packed.src / ("file%03d" % number)).write_bytes(b"%d" % number)
    first = backup(packed)
    monkeypatch.setattr(repository_module, "_FIRST_BYTES", 100)
    get, read = DirectoryStore.get, []

    def counting(store: DirectoryStore, name: str, *arguments: Any) -> Optional[bytes]:
        data = get(store, name, *arguments)
        read.append(len(data or b"") if "/manifests/" in name else 0)
        return data

    monkeypatch.setattr(DirectoryStore, "get", counting)
    target = target_of(packed)
    assert [snapshot.id for snapshot in target.list()] == [first]
    assert 100 < max(read) < os.path.getsize(packed.objects("manifests")[0]) / 2
