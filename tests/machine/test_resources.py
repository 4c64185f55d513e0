"""What this machine has to give."""

from __future__ import annotations

import os
import pwd

import pytest

from hpcio.machine import user_name


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_name() == str(os.geteuid())
    monkeypatch.setenv("USER", "ada")
    assert user_name() == "ada"
