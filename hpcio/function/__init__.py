"""What is called: a function, its arguments, what decides its bytes, and the decorator."""
