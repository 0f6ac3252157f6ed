"""What the reference pages say, from the code: each module renders one generated part."""
