"""From predictions to numbers: metrics, and the stage that writes them."""
