"""Where rows come from, and what a batch is."""
