"""Documents, and one writer per form."""
