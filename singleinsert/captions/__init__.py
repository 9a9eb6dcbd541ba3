"""Descriptions of a picture that say everything but the subject (SID), and what checks them.

Nothing is imported here, so that the command's --help is quick: see ``describe.py`` for the one call of a training.
"""
