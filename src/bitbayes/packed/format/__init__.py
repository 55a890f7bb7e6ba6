"""The file format of packed networks: programs, operations, and checks of both."""
