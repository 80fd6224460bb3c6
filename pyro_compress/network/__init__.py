"""What a network computes, as plain data: layers, the numbers that a file keeps, and which still matter."""
