"""Many runs of one recipe: over seeds, folds and variants, or in search of better options."""
