"""The ``fdd`` command: one thin file a sub-command, over functions that scripts can call too."""
