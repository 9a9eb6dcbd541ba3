"""What pyproject.toml cannot say: presets and examples, beside the package in a checkout, are installed inside it."""

from setuptools import find_packages, setup

BESIDE = {"singleinsert.presets": "presets", "singleinsert.examples": "examples"}

setup(
    packages=[*find_packages(include=["singleinsert", "singleinsert.*"]), *BESIDE],
    package_dir=BESIDE,
)
