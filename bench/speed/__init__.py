"""Time and memory of losses beside those of other libraries, and beside what the machine allows."""
