"""From the body of a request to what it asks for, or to the error that says what is wrong. Pure."""
