"""Evaluation: ``python -m singleinsert.evaluate``; see docs/evaluation.md."""
