"""Random inputs of every kind against plain formulas and brute force: ``make fuzz MINUTES=10``.

A module of this folder has ``KINDS``; a kind draws cases (hypothesis) and checks one. The repr of a case is Python that
makes it again, so that a failure is told as a line to run.
"""
