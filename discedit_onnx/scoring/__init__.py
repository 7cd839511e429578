"""From moments to scores: lower bounds on the total variation distance between classes."""
