"""People as judges of an evaluation's pictures: the two papers' pages, their answers, and what these say.

``questions`` says what is asked and in which order, ``answers`` keeps it, ``page`` serves it, ``statistics`` and
``report`` count it.
"""
