"""How a run is shown: on the terminal and in the Prefect UI."""
