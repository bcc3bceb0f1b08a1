"""What is asked of an image: head, loss and meter."""
