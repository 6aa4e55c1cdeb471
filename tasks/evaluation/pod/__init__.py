"""The program that measures adapters, on the weights as they are served."""
