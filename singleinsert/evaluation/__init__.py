"""Evaluation: the papers' metrics, the models they are measured with, and judges of editing success."""
