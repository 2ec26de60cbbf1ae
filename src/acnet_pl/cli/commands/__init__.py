"""The commands beside Lightning's, one module each: its docstring's first line is the help, ``run`` runs it."""
