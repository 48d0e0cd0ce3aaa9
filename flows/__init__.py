"""What runs when: Prefect flows over the four tasks."""
