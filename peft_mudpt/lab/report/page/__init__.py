"""Results as one HTML page that needs no network and runs no scripts."""
