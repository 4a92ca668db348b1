"""What a law is: its declaration, the variables that it reads, and the table of all laws."""
