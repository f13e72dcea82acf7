"""Tables and plots of the README and the docs, made from the JSON of measurements."""
