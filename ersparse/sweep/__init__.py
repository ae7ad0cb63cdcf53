"""Many runs: which they are, where each of them runs, how they stand."""
