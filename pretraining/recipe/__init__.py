"""The recipe, in the order of its modules: targets, simulate, loss, train, export."""
