"""The ``torchbp`` command: ``train``, ``check`` and ``info``."""
