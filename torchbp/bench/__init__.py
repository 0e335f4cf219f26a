"""The benchmark behind ``torchbp bench``: torchbp's layers beside the built-in ones, in turn, checked before timed.

``suite`` says what is measured and ``models`` holds its networks; ``peers`` runs a case one way, ``check`` compares it
with float64, :mod:`torchbp.costs.timing` takes the times, ``floor`` says what they could be at best, and ``measure``
does all of it for one case. ``process`` starts a fresh ``worker`` per setting; ``results`` keeps, reads and compares
what was found; ``report`` and ``plot`` show it.
"""
