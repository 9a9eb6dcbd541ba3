"""Many concepts: ``python -m singleinsert.batch``; see docs/batch.md."""
