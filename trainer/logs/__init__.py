"""What a training run says of itself: to its user, to files, to dashboards."""
