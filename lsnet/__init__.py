"""LSNet: the package's place; the method itself is not here yet (see the table of methods in the README)."""
