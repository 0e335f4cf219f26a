"""The ``torchbp`` command: ``train``, ``check``, ``cost``, ``bench`` and ``info``."""
