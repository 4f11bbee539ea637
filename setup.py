"""What `pyproject.toml` cannot say: the folders of this repository are installed as packages of `noetl`."""

from setuptools import find_packages, setup

FOLDERS = ("planner", "executor", "api", "infra")

setup(
    package_dir={"noetl": "noetl"} | {f"noetl.{folder}": folder for folder in FOLDERS},
    packages=find_packages(include=["noetl", "noetl.*"])
    + [f"noetl.{name}" for folder in FOLDERS for name in find_packages(include=[folder, f"{folder}.*"])],
)
