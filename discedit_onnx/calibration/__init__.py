"""From images to moments: readers, preparation, in-graph reductions, runs, and what is kept."""
