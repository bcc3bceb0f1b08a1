"""What is asked of a picture: head, loss and meter."""
