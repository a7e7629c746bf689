"""Numbers that anybody can measure again; each module tells how it is run."""
