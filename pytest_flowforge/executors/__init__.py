"""What executes jobs; each module holds one executor and knows none of the others."""
