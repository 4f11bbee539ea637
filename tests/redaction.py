"""Help for tests of redaction."""

from __future__ import annotations

import pytest

from noetl.executor.security.redaction import REVEALED_SECRETS, RevealedSecrets


def forget_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process know no secret, until the test ends."""
    for name, value in vars(RevealedSecrets()).items():
        monkeypatch.setattr(REVEALED_SECRETS, name, value)
