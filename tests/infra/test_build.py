"""The build of packages chooses the processor that the parameters give to the functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.infra.build import read_architecture


@pytest.mark.parametrize(
    ("configuration", "architecture"),
    [
        (None, "arm64"),
        ("version = 0.1", "arm64"),
        ("[default.deploy.parameters]\nparameter_overrides = 'Authentication=\"jwt\"'", "arm64"),
        (
            '[default.deploy.parameters]\nparameter_overrides = \'A="b" Architecture="x86_64"\'',
            "x86_64",
        ),
        ("[default.global.parameters]\nparameter_overrides = ['Architecture=x86_64', 'A=b']", "x86_64"),
        (
            (
                "[default.deploy.parameters]\nparameter_overrides = 'Architecture=arm64'\n"
                "[other.deploy.parameters]\nparameter_overrides = 'Architecture=x86_64'"
            ),
            "arm64",
        ),
    ],
)
def test_the_architecture_is_that_of_the_parameters(
    tmp_path: Path, configuration: str | None, architecture: str
) -> None:
    file = tmp_path / "samconfig.toml"
    if configuration is not None:
        file.write_text(configuration)
    assert read_architecture(file) == architecture
