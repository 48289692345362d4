"""Pseudo labels M^pse from the outputs of the label branch: estimated, averaged, and measured."""
