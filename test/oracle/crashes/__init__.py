"""What the clients of each family do while the server is killed, and what must be when it is back."""
