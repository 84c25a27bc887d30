"""One module a version of the tables, each naming the one before it."""
