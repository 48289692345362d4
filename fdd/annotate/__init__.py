"""Setting points by hand, with the labels that they give in view: ``fdd annotate``.

The points and their edits (:mod:`fdd.annotate.store`) and what is opened
(:mod:`fdd.annotate.start`) need no PyTorch.
"""
