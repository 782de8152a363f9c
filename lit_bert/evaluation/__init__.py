"""What is computed, printed and logged about a trained classifier."""
