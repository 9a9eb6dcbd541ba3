"""What pyproject.toml cannot say: the presets, beside the package in a checkout, are installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["singleinsert", "singleinsert.*"]), "singleinsert.presets"],
    package_dir={"singleinsert.presets": "presets"},
)
