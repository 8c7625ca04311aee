"""The recipe, in the order of its modules; each imports only those before it.

targets : processes of the prior, with their exact optimal values.
simulate : logs of transitions of these processes, as the network reads them.
loss : how far the network's answers are from the exact ones.
groups : the configuration of a run, and the stream of data that it decides.
run : the folder of a run, its state, metrics and manifest.
train : the steps of a training, and its command.
export : the release folder of a run, and its model card.
"""
