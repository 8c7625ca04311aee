'''The methods that tabrl is compared with.

An offline method is one class in one file of `offline`, and one line in the list
``BASELINES`` of ``offline/__init__.py``. This is a whole one, from an outside package:

    import numpy as np

    from pretraining.benchmark.baselines.offline import LoggedData, Method


    class MDPToolbox(Method):
        """Policy iteration of pymdptoolbox on the observed frequencies."""

        name = "policy iteration, pymdptoolbox"
        package = "mdptoolbox"  # the method is left out where it is not installed
        constants = ()  # or a tuple: each is run, and the best chosen in hindsight

        def policy(self, data: LoggedData, constant):
            from mdptoolbox.mdp import PolicyIteration

            S, A = data.n.shape
            P, R = np.zeros((A, S + 1, S + 1)), np.zeros((S + 1, A))
            R[:S] = data.mean_reward
            for a in range(A):
                P[a, :S, :S] = data.transition[a::A].toarray()
                # What ends, or was never tried, leads to a last state, worth 0.
                P[a, :, S] = 1 - P[a].sum(axis=1)
            solver = PolicyIteration(P, R, data.gamma)
            solver.run()
            return np.eye(A)[list(solver.policy[:S])]  # (S, A), rows sum to one

`LoggedData` says what else there is: the counts, the true behaviour policy, the raw
log. Test the method against a closed form (`expected_data` is the limit of much data),
then score it:

    python -m pretraining.benchmark offline --quick --environments FrozenLake-v1
'''
