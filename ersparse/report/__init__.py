"""What runs say, as pictures and tables."""
