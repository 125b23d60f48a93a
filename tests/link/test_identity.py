from pathlib import Path

import pytest
from iroh import SecretKey

from muster.errors import MachineTrouble
from muster.link.identity import Identity, held_identity, load_identity


def test_a_machine_stays_the_same_node(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "node.key"
    first = load_identity(path)
    assert load_identity(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["node.key"]


def test_two_processes_are_not_the_same_node(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with held_identity(path) as identity:
        with pytest.raises(MachineTrouble, match="already"), held_identity(path):
            pass
        assert load_identity(path) == identity
    with held_identity(path) as again:
        assert again == identity


def test_the_node_id_is_the_one_that_iroh_authenticates() -> None:
    identity = Identity.generate()
    assert str(SecretKey.from_bytes(identity.secret).public()) == identity.node_id


def test_the_secret_is_not_shown() -> None:
    identity = Identity.generate()
    assert repr(identity.secret) not in repr(identity)
    assert "secret" not in repr(identity)


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33, "é" * 64])
def test_a_damaged_key_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(MachineTrouble, match=r"node\.key is damaged; restore"):
        load_identity(path)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    load_identity(path)
    path.chmod(0o644)
    with pytest.raises(MachineTrouble, match="chmod 600"):
        load_identity(path)


def test_a_folder_that_cannot_be_made_is_machine_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineTrouble, match="cannot be used"):
        load_identity(tmp_path / "file" / "node.key")
