"""Lemma 2.1 and Theorems 2.2 to 2.7 of the paper as functions, constructions and simulations (sections 2, A.2 to A.6).

Layers are counted as in the paper: l = 1..L in the target network and l = 0..L in the source network, whose additional
layer 0 copies the inputs. No module of this package imports Lightning.
"""
