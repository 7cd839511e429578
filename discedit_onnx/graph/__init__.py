"""What belongs together: axis variables, coupling, and the view of the graph beneath them."""
