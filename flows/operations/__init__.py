"""What keeps runs going: environment, servers, liveness, the device limit."""
