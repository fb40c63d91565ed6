"""`lit-eval report`: a run as one HTML page that needs nothing beside it."""
