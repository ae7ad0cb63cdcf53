"""The paper's lemma and theorems (sections 2, A.2-A.6) as functions, constructions and simulations.

Nothing here imports Lightning. The widths of target layers are counted as in the paper: layer l = 1..L of the target,
layer l = 0..L of the source, whose extra layer 0 copies the inputs.
"""
