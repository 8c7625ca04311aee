"""The recipe: prior over decision processes, simulation, losses and trainer."""
