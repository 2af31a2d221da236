"""The hub service with the page of clusters, and behind it their dashboards."""
